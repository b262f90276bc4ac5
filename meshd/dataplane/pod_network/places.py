"""Where the programs of the pod network act, and in which order they are put there.

Programs are replaced one by one, so for an instant some are of the new build and some of the old. Those that receive come
first: whatever a sending program of either build records, somebody is there to read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# A syscall program that the agent runs.
EXPIRE = "pod_network_expire"


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of device, with the programs for packets that come in from it and that go out to it.

    ``receiving``: the one of both that is put on first.
    """

    ingress: str
    egress: str
    receiving: str

    @property
    def programs(self) -> tuple[str, str]:
        """In the order of attaching."""
        both = self.ingress, self.egress
        return both if both[0] == self.receiving else (both[1], both[0])


# The host's end of a pod's link: what comes in from it, the pod sent.
POD = Place("pod_network_from_pod", "pod_network_to_pod", receiving="pod_network_to_pod")
UPLINK = Place("pod_network_from_uplink", "pod_network_to_uplink", receiving="pod_network_from_uplink")
TUNNEL = Place("pod_network_from_tunnel", "pod_network_to_tunnel", receiving="pod_network_from_tunnel")

# All of them, receiving programs first.
ORDER = tuple(place.programs[turn] for turn in (0, 1) for place in (POD, TUNNEL, UPLINK))

# For what comes in from where nobody knows of us. A packet of a flow that only another build's programs know is theirs: the
# host's stack would answer it with a reset.
FROM_OUTSIDE = frozenset({UPLINK.ingress, TUNNEL.ingress})


def in_order(
    devices: Sequence[T], place_of: Callable[[T], Place], programs: Collection[str] = ORDER
) -> Iterator[tuple[str, T]]:
    """Of ``programs`` one after the other as in ``ORDER``, each with the devices that it belongs on."""
    for name in ORDER:
        if name in programs:
            yield from ((name, each) for each in devices if name in place_of(each).programs)

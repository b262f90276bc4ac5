"""What the programs of the pod network count, summed over all CPUs and named as in the object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshd.kernel.btf import Btf
from meshd.kernel.maps import Map


class DropCount(NamedTuple):
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packets that were dropped for one reason on their way from a pod or to one (``from_pod``, ``to_pod``)."""

    reason: str
    direction: str
    packets: int
    bytes: int


class Counters:
    """Over the maps `drops` and `pod_network_events`."""

    def __init__(self, btf: Btf, maps: Mapping[str, Map]) -> None:
        """Raises LayoutError: the object has other structs than this build knows."""
        self._drops = maps["drops"]
        self._events = maps["pod_network_events"]
        self._u32 = btf.codec("__u32", int)
        self._u64 = btf.codec("__u64", int)
        self._count = btf.codec("drop_count", DropCount)
        self._reasons = _names(btf.enum("drop_reason"), "DROP_", ("DROP_NONE", "DROP_REASONS"))
        self._directions = _names(btf.enum("drop_direction"), "DROP_", ("DROP_DIRECTIONS",))
        self._event_names = _names(btf.enum("pod_network_event"), "POD_NETWORK_", ("POD_NETWORK_EVENTS",))

    def drops(self) -> Iterator[Dropped]:
        """Every reason in every direction, those that did not occur too."""
        width = len(self._directions)
        for key, value in self._drops.items():
            reason, direction = divmod(self._u32.decode(key), width)
            if reason in self._reasons:
                counts = self._count.decode_cpus(value)
                yield Dropped(
                    self._reasons[reason],
                    self._directions[direction],
                    sum(each.packets for each in counts),
                    sum(each.bytes for each in counts),
                )

    def events(self) -> dict[str, int]:
        """Event -> how often, since the map was made."""
        return {
            self._event_names[number]: sum(self._u64.decode_cpus(value))
            for key, value in self._events.items()
            if (number := self._u32.decode(key)) in self._event_names
        }


def _names(values: Mapping[str, int], prefix: str, without: tuple[str, ...]) -> dict[int, str]:
    """Number -> the enumerator as users read it: in lower case, without what all of them begin with."""
    return {
        number: name.removeprefix(prefix).lower() for name, number in values.items() if name not in without
    }

"""Programs of the pod network as clsact filters: requests that go with others, and what of them is there.

A filter outlives the agent, and goes with its device. Place, priority and handle are fixed, so that a program is replaced in
one step and no packet meets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshd.dataplane.pod_network.places import Place
from meshd.kernel import tc_netlink
from meshd.kernel.program import Program
from meshd.kernel.route_socket import RouteSocket
from meshd.kernel.rtnetlink import Message
from meshd.kernel.tc_netlink import EGRESS, INGRESS, FilterAt

# Before all others, of which none is asked then: our verdict is final.
PRIORITY, HANDLE = 1, 0x7701


def attach(index: int, place: Place, programs: Mapping[str, Program]) -> list[Message]:
    """Requests that put the programs of ``place`` on a device, instead of those that are there."""
    wanted = [name for name in place.programs if name in programs]
    if not wanted:
        return []
    filters = [
        tc_netlink.replace_filter(_where(index, place, name), programs[name].fd, name) for name in wanted
    ]
    return [tc_netlink.add_clsact(index), *filters]


def detach(index: int, place: Place) -> list[Message]:
    """Requests that take them off, sending programs first; the qdisc stays, which may be somebody else's too."""
    return [tc_netlink.delete_filter(_where(index, place, name)) for name in reversed(place.programs)]


def attached(route: RouteSocket, indexes: Sequence[int], place: Place) -> dict[tuple[int, str], int]:
    """(ifindex, program's name) -> id of the program that is there; absent: none is. On a worker thread.

    Raises:
        KernelError: the kernel refused to tell.
    """
    wanted = [(index, name) for index in indexes for name in place.programs]
    asked = [tc_netlink.get_filter(_where(index, place, name)) for index, name in wanted]
    answers = [answer for part in _parts(asked) for answer in route.exchange(part)]
    found = {
        at: tc_netlink.program_id(answer[0]) for at, answer in zip(wanted, answers, strict=True) if answer
    }
    return {at: number for at, number in found.items() if number}


def _parts(messages: Sequence[Message]) -> list[Sequence[Message]]:
    """What one datagram, and the answers to it, have room for."""
    return [messages[start : start + 64] for start in range(0, len(messages), 64)]


def _where(index: int, place: Place, name: str) -> FilterAt:
    return FilterAt(index, INGRESS if name == place.ingress else EGRESS, PRIORITY, HANDLE)

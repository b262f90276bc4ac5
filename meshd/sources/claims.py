"""Which node of all clusters an address belongs to: two never have the same, and who had it first keeps it.

Arithmetic only. Networks of different owners do not overlap, so that whatever is asked about, its neighbour in order
decides.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Generic, NamedTuple, TypeVar

Network = IPv4Network | IPv6Network
OwnerT = TypeVar("OwnerT", bound=Hashable)

# Nothing larger is a pod CIDR: it would take the world's addresses away from the world.
WIDEST = {4: 8, 6: 16}
MAPPED = ip_network("::ffff:0:0/96")


class Conflict(NamedTuple, Generic[OwnerT]):
    """``network`` overlaps what ``owner`` has."""

    network: Network
    owner: OwnerT


class _Interval(NamedTuple, Generic[OwnerT]):
    first: int
    last: int
    number: int
    owner: OwnerT


class Claims(Generic[OwnerT]):
    """Networks and their owners."""

    def __init__(self) -> None:
        # By family, ascending; numbered so that owners are never compared.
        self._intervals: dict[int, list[_Interval[OwnerT]]] = {4: [], 6: []}
        self._held: dict[OwnerT, tuple[Network, ...]] = {}
        self._number = 0

    def of(self, owner: OwnerT) -> tuple[Network, ...]:
        """What ``owner`` has."""
        return self._held.get(owner, ())

    def conflicts(self, owner: OwnerT, networks: Iterable[Network]) -> Iterator[Conflict[OwnerT]]:
        """What of ``networks`` others than ``owner`` have; each other once for each network."""
        for network in networks:
            seen = {owner}
            for interval in self._overlapping(network):
                if interval.owner not in seen:
                    seen.add(interval.owner)
                    yield Conflict(network, interval.owner)

    def set(self, owner: OwnerT, networks: Iterable[Network]) -> None:
        """``owner`` has ``networks`` and nothing else; none of them is another's."""
        wanted = tuple(dict.fromkeys(networks))
        if wanted == self._held.get(owner, ()):
            return
        self.remove(owner)
        self._held[owner] = wanted
        for network in _outermost(wanted):
            self._number += 1
            first, last = int(network.network_address), int(network.broadcast_address)
            insort(self._intervals[network.version], _Interval(first, last, self._number, owner))

    def remove(self, owner: OwnerT) -> bool:
        """Whether ``owner`` had anything, which nobody has now."""
        versions = {network.version for network in self._held.pop(owner, ())}
        for version in versions:
            self._intervals[version] = [each for each in self._intervals[version] if each.owner != owner]
        return bool(versions)

    def _overlapping(self, network: Network) -> Iterator[_Interval[OwnerT]]:
        intervals = self._intervals[network.version]
        first, last = int(network.network_address), int(network.broadcast_address)
        at = bisect_right(intervals, last, key=lambda each: each.first) - 1
        while at >= 0 and intervals[at].last >= first:
            yield intervals[at]
            at -= 1


def unusable(network: Network) -> str:
    """Why nobody's pods or nodes can have ``network``, as a phrase; empty: they can."""
    if network.prefixlen < WIDEST[network.version]:
        return f"wider than /{WIDEST[network.version]}"
    if network.version == 6 and network.overlaps(MAPPED):
        return "IPv4 addresses inside IPv6"
    for kind in ("loopback", "multicast", "link_local", "unspecified"):
        if getattr(network, f"is_{kind}"):
            return f"{kind.replace('_', '-')} addresses"
    return ""


def _outermost(networks: Iterable[Network]) -> list[Network]:
    """``networks`` without those that are inside another of them."""
    found: list[Network] = []
    order = sorted(networks, key=lambda each: (each.version, int(each.network_address), each.prefixlen))
    for network in order:
        if not (found and found[-1].version == network.version and found[-1].overlaps(network)):
            found.append(network)
    return found

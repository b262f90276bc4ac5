"""Which networks of many have an address in common. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from clustermesh.addresses import Network

OwnerT = TypeVar("OwnerT")


def overlapping(
    claimed: Iterable[tuple[Network, OwnerT]],
) -> Iterator[tuple[tuple[Network, OwnerT], tuple[Network, OwnerT]]]:
    """Pairs with different owners, the wider network first. Networks nest or are apart, so time grows with their number,
    and with how deep they nest."""
    order = sorted(
        claimed, key=lambda each: (each[0].version, int(each[0].network_address), each[0].prefixlen)
    )
    around: list[tuple[Network, OwnerT]] = []
    for network, owner in order:
        while around and not _within(network, around[-1][0]):
            around.pop()
        for wider in around:
            if wider[1] != owner:
                yield wider, (network, owner)
        around.append((network, owner))


def _within(network: Network, wider: Network) -> bool:
    return network.version == wider.version and network.network_address in wider

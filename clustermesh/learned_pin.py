"""What a peer that nobody pinned named first, which is its pin from then on, until somebody states another in its file.

Only what its nodes named is learned, each network as wide as a cluster that grows needs it. What is somebody else's already
is not: a peer whose first word is hostile has nothing by it but what was nobody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from ipaddress import collapse_addresses, ip_network
from typing import cast

from clustermesh.addresses import Network
from clustermesh.node_record import Node
from clustermesh.overlap import overlapping
from clustermesh.pin import REACHED_BY, Pin

WIDTHS = {4: 16, 6: 48}
"""By family: the prefix that what a node named is widened to. Nothing that is wider is learned."""
MOST = 256
"""So many widened networks are learned at most, those first that most nodes named something in."""

ForbidsNetwork = Callable[[Network], str]
"""Why no peer may have a network, as a phrase; "": one may."""


def no_network(_: Network) -> str:
    """Forbids none."""
    return ""


def named_by(node: Node, kinds: Container[str] = REACHED_BY) -> Iterator[Network]:
    """What ``node`` has: its pod CIDRs, and its addresses of these ``kinds``."""
    own = (node.ipv4_network, node.ipv6_network, *node.ipv4_secondary_networks, *node.ipv6_secondary_networks)
    yield from (each for each in own if each is not None)
    yield from (ip_network(each.ip) for each in node.addresses if each.kind in kinds)


def learnable(
    nodes: Iterable[Node], forbids: ForbidsNetwork, elsewhere: Iterable[Network] = ()
) -> Counter[Network]:
    """What may be learned of what ``nodes`` named, with how many of them did. ``elsewhere``: what other peers have."""
    named = Counter(network for node in nodes for network in set(named_by(node)))
    named = Counter({each: many for each, many in named.items() if each.prefixlen >= WIDTHS[each.version]})
    claimed = [*((each, "named") for each in named), *((each, "taken") for each in elsewhere)]
    for (one, owner), (other, _) in overlapping(claimed):
        named.pop(one if owner == "named" else other, None)
    return Counter({each: many for each, many in named.items() if not forbids(each)})


def learned(cluster_id: int, named: Counter[Network], stated: Sequence[Network] = ()) -> Pin | None:
    """The pin of a peer with ``cluster_id`` that ``named`` these networks, less what others were joined with, ``stated``.

    None: they say nothing.
    """
    wide = Counter[Network]()
    for network, many in named.items():
        wide[network.supernet(new_prefix=WIDTHS[network.version])] += many
    order = sorted(wide, key=lambda each: (-wide[each], each.version, int(each.network_address)))
    left = [part for each in order[:MOST] for part in _without(each, stated)]
    if not left:
        return None
    networks = (*_collapsed(left, 4), *_collapsed(left, 6))
    return Pin(cluster_id, networks, is_learned=True)


def _without(network: Network, stated: Sequence[Network]) -> list[Network]:
    parts = [network]
    for other in stated:
        parts = [rest for part in parts for rest in _minus(part, other)]
    return parts


def _minus(network: Network, other: Network) -> list[Network]:
    if network.version != other.version or not network.overlaps(other):
        return [network]
    if network.prefixlen >= other.prefixlen:
        return []
    return list(network.address_exclude(other))  # type: ignore[arg-type] # of one family, which types do not show


def _collapsed(networks: Iterable[Network], version: int) -> list[Network]:
    of_family = [each for each in networks if each.version == version]
    return cast("list[Network]", list(collapse_addresses(of_family)))  # type: ignore[type-var] # of one family

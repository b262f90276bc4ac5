"""Rows of `destinations`: what is where, seen from this node. Pure.

A packet's destination is looked up by the longest prefix, so an address of a pod outside its node's CIDRs is a row of its
own, and what no row says is the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from meshd.dataplane.devices import Found
from meshd.dataplane.layouts import source_number
from meshd.dataplane.pod_network.rows import AddressRow
from meshd.dataplane.reach import Reached, Via
from meshd.dataplane.rows import Rows
from meshd.kernel.btf import Btf
from meshd.kernel.codec import Codec
from meshd.model import Address, Node, parse_address
from meshd.model.cluster import OWN_NODE

# Not the world's, and nothing that a program could send anywhere.
MANY = ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8")
EVERYTHING_V4 = "0.0.0.0/0"
_MAPPED = ip_network("::ffff:0:0/96")
_NO_ADDRESS = bytes(16)


class KeyRow(NamedTuple):
    prefix_length: int
    address: AddressRow


class DestinationRow(NamedTuple):
    tunnel: AddressRow
    kind: int
    identity_first: int
    identity_last: int
    source: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Layouts:
    """The codecs of these rows, and the kinds by name without ``DESTINATION_``."""

    key: Codec[KeyRow]
    value: Codec[DestinationRow]
    kinds: Mapping[str, int]
    takes_identity: int


def layouts(btf: Btf) -> Layouts:
    """The codecs of this object.

    Raises:
        LayoutError: the object's structs have other fields than this build knows.
    """
    kinds = btf.enum("destination_kind")
    return Layouts(
        key=btf.codec("destination_key", KeyRow),
        value=btf.codec("destination", DestinationRow),
        kinds={name.removeprefix("DESTINATION_"): number for name, number in kinds.items()},
        takes_identity=btf.enum("destination_flag")["DESTINATION_TAKES_IDENTITY"],
    )


def of_node(made: Layouts, node: Node, reached: Reached) -> Rows:
    """The rows of another node: its pods, and its own addresses, also that among its pods'."""
    if reached.via is Via.NOT:
        return {"destinations": {}}
    first, last = node.identities
    number = source_number(node.source)
    tunnelled = reached.via is Via.TUNNEL
    tunnel = AddressRow(reached.tunnel or _NO_ADDRESS)
    flags = made.takes_identity if tunnelled and node.takes_identities else 0

    def value(kind: str) -> bytes:
        row = DestinationRow(tunnel, made.kinds[kind], first, last, number, flags)
        return made.value.encode(row)

    pods, own = ("TUNNEL", "NODE") if tunnelled else ("NATIVE", "NATIVE")
    rows = {made.key.encode(key): value(own) for key in _hosts((*node.addresses, *node.health))}
    rows |= {made.key.encode(key): value(pods) for key in (*_prefixes(node.pod_cidrs), *_hosts(node.extra))}
    return {"destinations": rows}


def of_this_node(
    made: Layouts,
    found: Found,
    pod_cidrs: Iterable[str],
    excluded: Iterable[str],
    via_stack: Iterable[str],
    strangers: Iterable[Address] = (),
) -> Rows:
    """The rows of this node: what it has itself, and what its configuration says. The later of these count more."""
    configured = [*excluded, *via_stack]
    wanted = [
        # In the map IPv4 is a part of IPv6: what is said of all of IPv6 is not said of it.
        ("WORLD", _prefixes([EVERYTHING_V4] if any(map(_holds_mapped, configured)) else [])),
        ("EXCLUDED", _prefixes(excluded)),
        ("STACK", _prefixes(MANY)),
        ("LOCAL_PODS", _prefixes(pod_cidrs)),
        ("STACK", _hosts(sorted(strangers))),
        ("STACK", _prefixes(via_stack)),
        ("HOST", _hosts(sorted(found.addresses))),
    ]
    number = source_number(OWN_NODE)
    rows: dict[bytes, bytes] = {}
    for kind, keys in wanted:
        value = made.value.encode(DestinationRow(AddressRow(_NO_ADDRESS), made.kinds[kind], 0, 0, number))
        rows |= {made.key.encode(key): value for key in keys}
    return {"destinations": rows}


def _holds_mapped(cidr: str) -> bool:
    network = ip_network(cidr)
    return network.version == 6 and network.overlaps(_MAPPED)


def _prefixes(cidrs: Iterable[str]) -> Iterator[KeyRow]:
    for cidr in cidrs:
        network = ip_network(cidr)
        length = network.prefixlen + (96 if network.version == 4 else 0)
        yield KeyRow(length, AddressRow(parse_address(str(network.network_address))))


def _hosts(addresses: Iterable[Address]) -> Iterator[KeyRow]:
    return (KeyRow(128, AddressRow(address)) for address in addresses)

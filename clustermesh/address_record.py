"""An address of a workload as its cluster shares it: on which node it is, and which identity it has.

Source: Cilium's public type (`pkg/identity`, IPIdentityPair), in the form that version 1.19 writes; later ones
leave an absent mask out, which is read as well.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from ipaddress import ip_network

import msgspec

from clustermesh import gojson
from clustermesh.addresses import Address, Network, parse_network, to_text
from clustermesh.errors import InvalidRecord
from clustermesh.records import MAX_PORTS, PROTOCOLS, Port, address, decode

UNMANAGED_IDENTITY = 3
"""Of workloads that no identity was allocated for: one of the numbers that mean the same in every cluster."""
RESERVED_IDENTITIES = 256


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """``network``: one address, or a prefix. ``host``: the node it is on, None: not said.

    ``encryption_key`` is an IPsec key index (0: none). ``named_ports`` are those of the pod's containers, by name.
    """

    network: Network
    host: Address | None
    identity: int
    encryption_key: int = 0
    metadata: str = ""
    namespace: str = ""
    pod: str = ""
    service_account: str = ""
    named_ports: tuple[tuple[str, Port], ...] = ()

    @property
    def name(self) -> str:
        """The last part of its key."""
        whole = self.network.prefixlen == self.network.max_prefixlen
        text = to_text(self.network.network_address)
        return text if whole else f"{text}/{self.network.prefixlen}"


_NAMES = {
    "ip": "IP",
    "mask": "Mask",
    "host": "HostIP",
    "identity": "ID",
    "encryption_key": "Key",
    "metadata": "Metadata",
    "namespace": "K8sNamespace",
    "pod": "K8sPodName",
    "service_account": "K8sServiceAccount",
    "named_ports": "NamedPorts",
}


class _NamedPort(msgspec.Struct):
    # Go's names are the wire's.
    Name: str = ""
    Port: int = 0
    Protocol: str = ""


class _Record(msgspec.Struct, rename=_NAMES):
    ip: str = ""
    mask: str | None = None
    host: str = ""
    identity: int = 0
    encryption_key: int = 0
    metadata: str = ""
    namespace: str | msgspec.UnsetType = msgspec.UNSET
    pod: str | msgspec.UnsetType = msgspec.UNSET
    service_account: str | msgspec.UnsetType = msgspec.UNSET
    named_ports: list[_NamedPort] | msgspec.UnsetType | None = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Record)


def encode_address(record: AddressRecord) -> bytes:
    """The value of the address's key, as Go would write it."""
    network = record.network
    whole = network.prefixlen == network.max_prefixlen
    return gojson.encode(
        _Record(
            ip=to_text(network.network_address),
            mask=None if whole else base64.b64encode(network.netmask.packed).decode(),
            host="" if record.host is None else to_text(record.host),
            identity=record.identity,
            encryption_key=record.encryption_key,
            metadata=record.metadata,
            namespace=record.namespace or msgspec.UNSET,
            pod=record.pod or msgspec.UNSET,
            service_account=record.service_account or msgspec.UNSET,
            named_ports=[_NamedPort(name, port.number, port.protocol) for name, port in record.named_ports]
            or msgspec.UNSET,
        )
    )


def decode_address(
    key: str, value: bytes, *, name: str, cluster_id: int, max_connected_clusters: int
) -> AddressRecord:
    """The address under ``key``, which must be ``name`` (an address, or address/length).

    Raises:
        InvalidRecord: not JSON of the right shape, another address than the key's, or an identity of another
        cluster.
    """
    wire = decode(key, value, _decoder)
    text, slash, length = name.partition("/")
    at = address(key, "IP", text)
    if address(key, "IP", wire.ip) != at:
        raise InvalidRecord(key, "IP", f"is {wire.ip[:80]!r}, the key says {text[:80]!r}")
    network = _network(key, at, length if slash else None, wire.mask)
    first, last = identity_range(cluster_id, max_connected_clusters)
    if not (0 <= wire.identity < RESERVED_IDENTITIES or first <= wire.identity <= last):
        raise InvalidRecord(
            key, "ID", f"is {wire.identity}, not reserved and not within {first}..{last} of its cluster"
        )
    return AddressRecord(
        network=network,
        host=address(key, "HostIP", wire.host) if wire.host else None,
        identity=wire.identity,
        encryption_key=wire.encryption_key,
        metadata=wire.metadata,
        namespace=wire.namespace or "",
        pod=wire.pod or "",
        service_account=wire.service_account or "",
        named_ports=_named_ports(key, wire.named_ports or []),
    )


def _network(key: str, at: Address, length: str | None, mask: str | None) -> Network:
    """What the key says, which ``mask`` must be the mask of; both are absent of a single address."""
    try:
        network = ip_network(str(at) if length is None else f"{at}/{length}")
        said = None if mask is None else parse_network(str(at), mask)
    except ValueError as error:
        raise InvalidRecord(key, "IP", str(error)[:200]) from error
    if length is not None and (said != network or str(network.prefixlen) != length):
        raise InvalidRecord(key, "Mask", f"is {str(mask)[:40]!r}, the key says /{length[:10]}")
    if length is None and said not in (None, network):
        raise InvalidRecord(key, "Mask", f"is {str(mask)[:40]!r}, the key says a single address")
    return network


def _named_ports(key: str, wire: list[_NamedPort]) -> tuple[tuple[str, Port], ...]:
    """Those that are ports: what a name means is no reason to do without the address."""
    if len(wire) > MAX_PORTS:
        raise InvalidRecord(key, "NamedPorts", f"{len(wire)} ports, at most {MAX_PORTS} are allowed")
    return tuple(
        (each.Name, Port(each.Protocol, each.Port))
        for each in wire
        if each.Protocol in PROTOCOLS and 0 < each.Port < 65536
    )


def identity_range(cluster_id: int, max_connected_clusters: int) -> tuple[int, int]:
    """First and last of the 24-bit identities that cluster ``cluster_id`` gives to workloads."""
    shift = 15 if max_connected_clusters > 255 else 16
    if cluster_id == 0:
        return RESERVED_IDENTITIES, 65535
    return cluster_id << shift, ((cluster_id + 1) << shift) - 1

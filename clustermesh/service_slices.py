"""A service as endpoint slices, so that a change rewrites few backends, however many there are.

An address has its slice by its own hash, not by its place in a list, or whoever comes first would move all that follow. The
number of slices doubles as the service grows; between two doublings a backend that comes or goes changes one slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from zlib import crc32

from clustermesh.addresses import Address
from clustermesh.endpoint_slice import EndpointSlice
from clustermesh.records import ClusterService, Port, Ports

BACKENDS_A_SLICE = 100
"""On average at most, as Kubernetes' own controller fills them."""
LONGEST_NAME = 253

_Group = tuple[tuple[str, Port], ...]


def slices_of(service: ClusterService) -> list[EndpointSlice]:
    """The slices of ``service``, at least one: that a service has no backends is a value, too, not the lack of one."""
    made: list[EndpointSlice] = []
    for family, version in (("IPv4", 4), ("IPv6", 6)):
        addresses = [at for at in sorted(service.backends, key=int) if at.version == version]
        for bucket, some in enumerate(_buckets(addresses)):
            # Backends of one service may serve at other ports than the rest; the ports of a slice are those of all in it.
            for number, group in enumerate(_by_ports(service, some)):
                name = _slice_name(service, family, bucket, number)
                made.append(_slice(service, name, family, group))
    return made or [_slice(service, _slice_name(service, "IPv4", 0, 0), "IPv4", [])]


def _buckets(addresses: list[Address]) -> list[list[Address]]:
    count = 1
    while count * BACKENDS_A_SLICE < len(addresses):
        count *= 2
    buckets: list[list[Address]] = [[] for _ in range(count)]
    for at in addresses:
        buckets[crc32(at.packed) % count].append(at)
    return buckets


def _by_ports(service: ClusterService, addresses: Iterable[Address]) -> list[list[Address]]:
    groups: dict[_Group, list[Address]] = {}
    for at in addresses:
        ports = sorted(service.backends[at].items(), key=lambda item: item[0])
        groups.setdefault(tuple(ports), []).append(at)
    return [groups[key] for key in sorted(groups, key=repr)]


def _slice(service: ClusterService, name: str, family: str, addresses: list[Address]) -> EndpointSlice:
    ports: Ports = service.backends[addresses[0]] if addresses else {}
    return EndpointSlice(
        cluster=service.cluster,
        namespace=service.namespace,
        name=name,
        cluster_id=service.cluster_id,
        service=service.name,
        family=family,
        backends=tuple(addresses),
        leaving=frozenset(addresses) & frozenset(service.terminating),
        ports=dict(ports),
        hostnames={at: service.hostnames[at] for at in addresses if at in service.hostnames},
        zones={at: service.zones[at] for at in addresses if at in service.zones},
    )


def _slice_name(service: ClusterService, family: str, bucket: int, group: int) -> str:
    end = f"-{family.lower()}-{bucket}" + (f"-{group}" if group else "")
    if len(service.name) + len(end) <= LONGEST_NAME:
        return service.name + end
    # Cut, and told apart from others that begin alike.
    end = f"-{sha256(service.name.encode()).hexdigest()[:10]}{end}"
    return service.name[: LONGEST_NAME - len(end)].rstrip("-.") + end

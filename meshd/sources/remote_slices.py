"""A service that a remote cluster shares, as a slice of backends of the mesh, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

from clustermesh.known import Known, restored
from clustermesh.records import ClusterService, Port, Zone
from clustermesh.removals import Kept
from clustermesh.sink import KeptService
from meshd.model import (
    Address,
    Backend,
    BackendPort,
    BackendSlice,
    Protocol,
    ServiceName,
    format_address,
    parse_address,
)
from meshd.model.cluster import REMOTE_PREFIX as PREFIX

SLICE = "clustermesh"

_PROTOCOLS = {protocol.name: protocol for protocol in Protocol}


def source_of(cluster: str) -> str:
    """The source under which the objects of ``cluster`` stand in the mesh."""
    return PREFIX + cluster


def slice_of(service: ClusterService) -> BackendSlice:
    """The backends of ``service``: a cluster names only those that serve, and says which of them are on their way out.

    Ports keep their names, which join them to the local service's; SCTP is not translated and left out.
    """
    return BackendSlice(
        service=ServiceName(service.namespace, service.name),
        name=SLICE,
        source=source_of(service.cluster),
        cluster=service.cluster,
        backends=tuple(
            Backend(
                address=_address(address),
                ports=tuple(_ports(ports.items())),
                ready=address not in service.terminating,
                terminating=address in service.terminating,
                zone=service.zones[address].zone if address in service.zones else "",
            )
            for address, ports in service.backends.items()
        ),
    )


def kept_slice(kept: KeptService, now_s: float, stale_after_s: float) -> BackendSlice:
    """The backends of a service that stands although its cluster does not name it, at Unix time ``now_s``."""
    overdue = now_s - kept.since_s >= stale_after_s
    return replace(slice_of(kept.record), stale_since_s=kept.since_s, held=kept.held, overdue=overdue)


def known_of(slices: Iterable[BackendSlice], now_s: float) -> Known:
    """What the ``slices`` of one cluster say that it shared, and what of that was kept: `slice_of` and `kept_slice` undone,
    as far as backends need it."""
    said: dict[str, ClusterService] = {}
    kept: dict[str, KeptService] = {}
    for part in slices:
        service = _service(part)
        if part.stale_since_s:
            kept[service.full_name] = Kept(service, part.stale_since_s, part.held)
        else:
            said[service.full_name] = service
    return restored(said, kept, now_s)


def _service(part: BackendSlice) -> ClusterService:
    addressed = {ip_address(format_address(backend.address)): backend for backend in part.backends}
    return ClusterService(
        part.cluster,
        part.service.namespace,
        part.service.name,
        0,
        backends={
            address: {port.port_name: Port(port.protocol.name, port.port) for port in backend.ports}
            for address, backend in addressed.items()
        },
        zones={address: Zone(backend.zone) for address, backend in addressed.items() if backend.zone},
        terminating=tuple(address for address, backend in addressed.items() if backend.terminating),
    )


def _address(address: IPv4Address | IPv6Address) -> Address:
    return parse_address(str(address))


def _ports(named: Iterable[tuple[str, Port]]) -> Iterator[BackendPort]:
    for name, port in named:
        if port.protocol in _PROTOCOLS:
            yield BackendPort(name, _PROTOCOLS[port.protocol], port.number)

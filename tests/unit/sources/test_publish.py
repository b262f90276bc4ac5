"""Which services a cluster shares, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from clustermesh.records import ClusterService, Port, Zone
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Namespace,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.sources.own_records import node_record
from meshd.sources.publish import record_of
from meshd.state import Mesh
from tests.unit.sources.nodes import NODE, RECORD

WEB = ServiceName("galaxy", "web")
HTTP = BackendPort("http", Protocol.TCP, 8080)
SERVICE = Service(WEB, "manifests", is_global=True)


def backend(address: str, *, ready: bool = True, serving: bool = True, terminating: bool = False) -> Backend:
    return Backend(parse_address(address), (HTTP,), ready, serving, terminating)


def part(
    *backends: Backend, name: str = "a", source: str = "manifests", cluster: str = "cm-1"
) -> BackendSlice:
    return BackendSlice(WEB, name, source, cluster, backends)


def record(service: Service, *parts: BackendSlice, namespace: bool | None = None) -> ClusterService | None:
    mesh = Mesh()
    mesh.apply(service.source, [service, Namespace("galaxy", service.source, namespace)])
    for one in parts:
        mesh.apply(one.source, [one])
    return record_of(mesh, service, "cm-1", 1)


def named(service: Service, *parts: BackendSlice) -> list[str]:
    found = record(service, *parts)
    assert found is not None
    return [str(address) for address in found.backends]


def test_a_record_has_the_frontends_ports_and_zones_of_a_service() -> None:
    address, six = parse_address("10.96.0.1"), parse_address("fd00::1")
    frontends = (
        Frontend(address, 80, Protocol.TCP, "http"),
        Frontend(address, 53, Protocol.UDP, "dns"),
        Frontend(six, 80, Protocol.TCP, "http"),
    )
    one = replace(backend("10.1.0.1"), zone="west")
    more = replace(backend("10.1.0.1"), ports=(BackendPort("dns", Protocol.UDP, 5353),))
    found = record(replace(SERVICE, frontends=frontends), part(one), part(more, name="b"))
    assert found == ClusterService(
        cluster="cm-1",
        namespace="galaxy",
        name="web",
        cluster_id=1,
        frontends={
            ip_address("10.96.0.1"): {"http": Port("TCP", 80), "dns": Port("UDP", 53)},
            ip_address("fd00::1"): {"http": Port("TCP", 80)},
        },
        backends={ip_address("10.1.0.1"): {"http": Port("TCP", 8080), "dns": Port("UDP", 5353)}},
        zones={ip_address("10.1.0.1"): Zone("west")},
        include_external=True,
        shared=True,
    )


@pytest.mark.parametrize(
    ("service", "namespace", "is_shared"),
    [
        (SERVICE, None, True),
        (replace(SERVICE, is_global=None), None, False),
        (replace(SERVICE, is_global=None), True, True),
        (replace(SERVICE, is_global=False), True, False),
        (SERVICE, False, False),
        (replace(SERVICE, shared=False), None, False),
    ],
)
def test_only_global_services_are_shared_and_not_those_that_decline(
    service: Service, namespace: bool | None, is_shared: bool
) -> None:
    assert (record(service, namespace=namespace) is not None) is is_shared


def test_backends_that_serve_are_named_and_those_on_their_way_out_marked() -> None:
    gone = backend("10.1.0.4", ready=False, serving=False, terminating=True)
    leaving = backend("10.1.0.3", ready=False, terminating=True)
    unready = backend("10.1.0.2", ready=False, serving=False)
    found = record(SERVICE, part(backend("10.1.0.1"), unready, leaving, gone))
    assert found is not None
    assert [str(address) for address in found.backends] == ["10.1.0.1", "10.1.0.3"]
    assert [str(address) for address in found.terminating] == ["10.1.0.3"]


def test_a_service_that_publishes_what_is_not_ready_names_it() -> None:
    unready = backend("10.1.0.2", ready=False, serving=False)
    gone = backend("10.1.0.4", ready=False, serving=False, terminating=True)
    assert named(replace(SERVICE, publish_not_ready=True), part(unready, gone)) == ["10.1.0.2"]


def test_only_backends_of_the_source_in_force_are_named() -> None:
    other = part(backend("10.1.0.7"), source="api")
    remote = part(backend("10.2.0.1"), source="cluster:cm-2", cluster="cm-2", name="clustermesh")
    assert named(SERVICE, part(backend("10.1.0.1")), other, remote) == ["10.1.0.1"]


def test_a_headless_service_is_shared_without_frontends() -> None:
    found = record(SERVICE, part(backend("10.1.0.1")))
    assert found is not None
    assert found.frontends == {}


def test_the_order_of_slices_makes_no_difference() -> None:
    a, b = part(backend("10.1.0.1")), part(backend("10.1.0.2"), name="b")
    assert record(SERVICE, a, b) == record(SERVICE, b, a)


def test_a_node_is_told_with_its_addresses_and_networks() -> None:
    assert node_record(NODE, 1) == RECORD

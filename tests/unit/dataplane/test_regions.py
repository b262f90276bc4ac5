"""In which region backends are, as far as nodes say it, and which of them a ladder with regions takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.held import Held
from meshd.dataplane.layouts import layouts
from meshd.dataplane.regions import Regions
from meshd.dataplane.socket_lb import Planner
from meshd.kernel.object import BpfObject
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Node,
    NodeState,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.cluster import ETCD, OWN_NODE
from meshd.model.failover import parse_ladder
from meshd.state import Mesh

WEB = ServiceName("default", "web")
REMOTE = "cluster:cm-2"
NODES = (
    Node("cm-1", "n1", "kubernetes", region="west"),
    Node("cm-1", "n2", ETCD, (parse_address("192.168.0.2"),), ("10.1.2.0/24", "fd01:2::/64"), region="west"),
    Node("cm-1", "n3", ETCD, (parse_address("192.168.0.3"),), ("10.1.3.0/24",), region="east"),
    Node("cm-1", "n4", ETCD, (parse_address("192.168.0.4"),), ("10.1.4.0/24",)),
    Node("cm-2", "n1", REMOTE, (parse_address("192.168.0.21"),), ("10.2.1.0/24",), region="east"),
    Node(
        "cm-2",
        "n2",
        REMOTE,
        (parse_address("192.168.0.22"),),
        ("10.2.2.0/24",),
        extra=(parse_address("172.20.0.7"),),
        region="west",
    ),
    Node("cm-2", "n3", REMOTE, pod_cidrs=("10.2.3.0/24",), state=NodeState.REFUSED, region="west"),
)


def mesh_of(*nodes: Node) -> Mesh:
    made = Mesh()
    for node in nodes:
        made.apply(node.source, [node])
    return made


def backend(address: str, node: str = "") -> Backend:
    return Backend(parse_address(address), (BackendPort("", Protocol.TCP, 80),), node=node)


# Cluster, address and node of a backend, and its region.
BACKENDS = {
    "on the node that it names": ("cm-1", "10.9.9.9", "n3", "east"),
    "its node says no region": ("cm-1", "10.1.4.9", "n4", ""),
    "it names a node that nobody knows, and has an address of another's pods": (
        "cm-1",
        "10.1.2.9",
        "x",
        "west",
    ),
    "it names none, and has an address of a node's pods": ("cm-1", "10.1.2.0", "", "west"),
    "the last of them": ("cm-1", "10.1.3.255", "", "east"),
    "in IPv6": ("cm-1", "fd01:2::ffff", "", "west"),
    "a node's own": ("cm-1", "192.168.0.3", "", "east"),
    "between two nodes": ("cm-1", "10.1.5.1", "", ""),
    "below all": ("cm-1", "1.0.0.1", "", ""),
    "of another cluster": ("cm-2", "10.2.1.7", "", "east"),
    "outside of what its node's pods have": ("cm-2", "172.20.0.7", "", "west"),
    "only its own cluster's nodes count": ("cm-2", "10.1.2.9", "", ""),
    "its node is refused": ("cm-2", "10.2.3.7", "", ""),
    "of a cluster without nodes": ("cm-3", "10.3.0.1", "", ""),
}


@pytest.mark.parametrize("case", BACKENDS)
def test_a_backend_is_in_the_region_of_its_node(case: str) -> None:
    cluster, address, node, expected = BACKENDS[case]
    assert Regions().of(mesh_of(*NODES), cluster, backend(address, node)) == expected


def test_what_nodes_say_later_counts() -> None:
    mesh, regions, there = mesh_of(*NODES), Regions(), backend("10.2.1.7")
    found = [regions.of(mesh, "cm-2", there)]
    mesh.apply(REMOTE, [replace(NODES[4], region="north")])
    found.append(regions.of(mesh, "cm-2", there))
    mesh.apply("manifests", [Service(WEB, "manifests")])
    found.append(regions.of(mesh, "cm-2", there))
    mesh.apply(REMOTE, deletes=[(Node, NODES[4].key)])
    found.append(regions.of(mesh, "cm-2", there))
    assert found == ["east", "north", "north", ""]


def test_of_several_sources_of_a_node_the_first_that_says_a_region_counts() -> None:
    named = [replace(NODES[2], source=source, region=region) for source, region in
             ((ETCD, "d"), ("manifests", "c"), ("kubernetes", "b"), (OWN_NODE, ""))]  # fmt: skip
    assert Regions().of(mesh_of(*named), "cm-1", backend("10.1.3.1")) == "b"


@pytest.fixture(scope="module")
def planner() -> Iterator[Planner]:
    with BpfObject.open() as bpf:
        made = layouts(bpf.btf)
    yield Planner(made, "n1", Held(made, {}), cluster="cm-1")


# By configuration, the ladder, and which backends it takes; this node's own Node says that it is in west.
LADDERS = {
    "backends of this region, of whatever cluster": ("", "region, any", {"10.1.2.1", "10.2.2.1"}),
    "what is configured goes before": ("east", "region, any", {"10.1.3.1", "10.2.1.1"}),
    "nobody there, so all": ("north", "region", {"10.1.2.1", "10.1.3.1", "10.2.1.1", "10.2.2.1"}),
    "within this cluster first": ("east", "zone, local, region, any", {"10.1.2.1", "10.1.3.1"}),
}


@pytest.mark.parametrize("case", LADDERS)
def test_a_ladder_takes_the_backends_of_this_nodes_region(planner: Planner, case: str) -> None:
    region, ladder, expected = LADDERS[case]
    mesh = mesh_of(*NODES)
    web = Service(
        WEB,
        "manifests",
        (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),),
        is_global=True,
        failover=parse_ladder(ladder),
    )
    here = BackendSlice(WEB, "a", "manifests", "cm-1", (backend("10.1.2.1", "n2"), backend("10.1.3.1", "n3")))
    there = BackendSlice(WEB, "a", REMOTE, "cm-2", (backend("10.2.1.1"), backend("10.2.2.1")))
    mesh.apply("manifests", [web, here])
    mesh.apply(REMOTE, [there])
    rows = replace(planner, region=region, regions=Regions()).service(mesh, WEB).rows
    slots = [planner.layouts.slot.decode(value) for value in rows["slots"].values()]
    wanted = {parse_address(text) for text in expected}
    assert {slot.backend.address for slot in slots} == wanted


def test_a_backend_on_this_node_is_where_the_node_is(planner: Planner) -> None:
    mesh = mesh_of(NODES[4])
    web = Service(
        WEB,
        "manifests",
        (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),),
        failover=parse_ladder("region"),
    )
    part = BackendSlice(WEB, "a", "manifests", "cm-1", (backend("10.1.1.1", "n1"), backend("10.1.2.1", "n2")))
    mesh.apply("manifests", [web, part])
    rows = replace(planner, region="west").service(mesh, WEB).rows
    slots = [planner.layouts.slot.decode(value) for value in rows["slots"].values()]
    assert {slot.backend.address for slot in slots} == {parse_address("10.1.1.1")}


def test_where_nobody_says_in_which_region_this_node_is_no_backend_is_in_it(planner: Planner) -> None:
    mesh = mesh_of(NODES[4])
    web = Service(
        WEB,
        "manifests",
        (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),),
        is_global=True,
        failover=parse_ladder("region, cluster:cm-2"),
    )
    mesh.apply("manifests", [web, BackendSlice(WEB, "a", "manifests", "cm-1", (backend("10.1.2.1", "n2"),))])
    mesh.apply(REMOTE, [BackendSlice(WEB, "a", REMOTE, "cm-2", (backend("10.2.1.1"),))])
    rows = replace(planner, regions=Regions()).service(mesh, WEB).rows
    slots = [planner.layouts.slot.decode(value) for value in rows["slots"].values()]
    assert {slot.backend.address for slot in slots} == {parse_address("10.2.1.1")}

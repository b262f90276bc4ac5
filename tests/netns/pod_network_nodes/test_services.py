"""A service whose backend is a pod of another node, for sockets that no hook sees: natively routed, and in a tunnel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from meshd.api.v1 import map_pb2, map_pb2_grpc
from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.agent.agent_node import endpoint_slice, service
from tests.netns.pod_network.traffic import asked, serving
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.patience import patience

VIPS = ("10.96.0.10", "fd96::10")


def frontends(node: FabricNode) -> int:
    """How many its kernel has."""
    with node.agent.channel() as channel:
        request = map_pb2.DumpMapRequest(name="frontends")
        parts = map_pb2_grpc.MapServiceStub(channel).DumpMap(request, timeout=patience(5))
        return sum(len(part.entries) for part in parts)


def routed(node: FabricNode, routing: str) -> bool:
    """Whether it reaches all other nodes in this way, with the programs for it."""
    said = node.agent.status()
    on = {program.name: program.attached_to for program in said.programs} if said is not None else {}
    ready = routing == "native" or "meshd-vxlan" in on.get("pod_network_from_tunnel", "")
    nodes = node.nodes().values()
    return ready and bool(nodes) and all(shown.routing == routing for shown in nodes)


def write_services(node: FabricNode, backends: list[str]) -> None:
    """One service of each family, with the backend's address of that family."""
    documents: list[dict[str, object]] = []
    for vip, backend in zip(VIPS, backends, strict=True):
        version = ip_address(vip).version
        documents.append(service(f"v{version}", vip))
        documents.append(endpoint_slice(f"v{version}", backend) | {"addressType": f"IPv{version}"})
    node.agent.write("services", *documents)
    node.agent.wait(lambda: frontends(node) == len(VIPS))


@pytest.mark.parametrize("routing", ["native", "vxlan"])
@pytest.mark.needs("etcd")
def test_pods_the_host_and_who_is_outside_reach_a_backend_of_another_node(
    fabric: Fabric, routing: str
) -> None:
    first, second = fabric.node(1, routing=routing), fabric.node(2, routing=routing)
    for node in (first, second):
        node.start()
    for node in (first, second):
        node.agent.wait(lambda node=node: routed(node, routing))  # type: ignore[misc] # a bound default
    here, mine = first.add("here")
    there, theirs = second.add("there")
    write_services(first, theirs.addresses)
    for vip in VIPS:
        through = first.v4 if ip_address(vip).version == 4 else first.v6
        netlink.add_route(fabric.netns, ip_network(vip), via=ip_address(through))
    with Netns.open(here) as pod, Netns.open(there) as server, serving(server, 8080):
        assert [asked(pod, vip, 80, 1_000_000) for vip in VIPS] == mine.addresses
        assert [asked(first.netns, vip, 80, 1_000_000) for vip in VIPS] == [first.v4, first.v6]
        assert [asked(fabric.netns, vip, 80, 1_000_000) for vip in VIPS] == [first.v4, first.v6]

"""Addresses that are no ClusterIPs, at real sockets: node ports, load balancers' and external ones; and who is near."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshd.model import Frontend, Node, Protocol, Service, TrafficDistribution, parse_address
from meshd.state import PlanKey
from tests.netns.dataplane.node import BACKENDS4, NAME, VIP4, backend, backends, service, serving
from tests.netns.dataplane.node import Node as Place

NODE_PORT = Frontend(parse_address("192.0.2.7"), 30080, Protocol.TCP, "http")
BALANCER = Frontend(parse_address("203.0.113.5"), 80, Protocol.TCP, "http")
FIRST, SECOND = BACKENDS4[:2]


def external(**facts: object) -> Service:
    return replace(service(), external=(NODE_PORT, BALANCER), **facts)  # type: ignore[arg-type]


async def test_a_node_port_and_a_load_balancers_address_are_answered_at_the_socket(node: Place) -> None:
    with serving(node, FIRST):
        async with node.agent():
            node.mesh.replace("manifests", [external(), backends(backend(FIRST))])
            await node.settle()
            for frontend, address in ((NODE_PORT, "192.0.2.7"), (BALANCER, "203.0.113.5")):
                with node.connect(address, frontend.port) as made:
                    assert made.recv(64) == FIRST.encode()
                    assert made.getpeername() == (address, frontend.port)


async def test_only_this_nodes_backends_serve_a_cluster_ip_with_a_local_policy_and_all_serve_a_node_port(
    node: Place,
) -> None:
    here, there = replace(backend(FIRST), node="node-1"), replace(backend(SECOND), node="node-2")
    with serving(node, FIRST, SECOND):
        async with node.agent():
            node.mesh.replace("manifests", [external(internal_traffic_local=True), backends(here, there)])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(20)} == {FIRST}
            assert {node.ask("192.0.2.7", 30080) for _ in range(40)} == {FIRST, SECOND}


async def test_an_address_that_is_given_up_is_the_networks_again(node: Place) -> None:
    with serving(node, FIRST):
        async with node.agent():
            node.mesh.replace("manifests", [external(), backends(backend(FIRST))])
            await node.settle()
            assert node.ask("192.0.2.7", 30080) == FIRST
            node.mesh.apply("manifests", [replace(external(), external=(BALANCER,))])
            await node.settle()
            assert node.ask("203.0.113.5", 80) == FIRST
            # Nobody has that address here, and there is no way to it.
            with pytest.raises(OSError, match="unreachable"):
                node.ask("192.0.2.7", 30080)


async def test_new_connections_stay_in_the_zone_that_this_node_turns_out_to_be_in(node: Place) -> None:
    near, far = replace(backend(FIRST), zone="z1"), replace(backend(SECOND), zone="z2")
    wish = replace(service(), traffic_distribution=TrafficDistribution.SAME_ZONE)
    with serving(node, FIRST, SECOND):
        async with node.agent():
            node.mesh.replace("manifests", [wish, backends(near, far)])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(40)} == {FIRST, SECOND}
            for zone, expected in (("z2", {SECOND}), ("z1", {FIRST}), ("z9", {FIRST, SECOND})):
                node.mesh.apply("manifests", [Node("cm-1", "node-1", "manifests", zone=zone)])
                node.mesh.touch(PlanKey("service", str(NAME)))
                await node.settle()
                assert {node.ask(VIP4) for _ in range(40)} == expected

"""Service addresses at real sockets: what applications see, on the real kernel."""

from __future__ import annotations

import errno
import socket
from collections import Counter

import pytest

from meshd.model import Namespace
from tests.netns.dataplane.node import (
    BACKENDS4,
    VIP4,
    VIP6,
    Node,
    backend,
    backends,
    service,
    serving,
)

BACKENDS6 = ("fd00::11", "fd00::12")


async def test_connections_spread_over_all_backends_in_both_families(node: Node) -> None:
    with serving(node, *BACKENDS4, *BACKENDS6):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(*map(backend, (*BACKENDS4, *BACKENDS6)))])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(60)} == set(BACKENDS4)
            assert {node.ask(VIP6) for _ in range(40)} == set(BACKENDS6)


async def test_a_v4_mapped_socket_reaches_the_same_backends(node: Node) -> None:
    with serving(node, BACKENDS4[0]):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            with node.connect(f"::ffff:{VIP4}", 80) as made:
                assert made.recv(64) == BACKENDS4[0].encode()
                assert made.getpeername()[:2] == (f"::ffff:{VIP4}", 80)


@pytest.mark.parametrize(("vip", "address"), [(VIP4, BACKENDS4[0]), (VIP6, BACKENDS6[0])])
async def test_the_application_keeps_seeing_the_service_address(node: Node, vip: str, address: str) -> None:
    with serving(node, address):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(address))])
            await node.settle()
            with node.connect(vip, 80) as tcp, node.connect(vip, 53, socket.SOCK_DGRAM) as udp:
                assert tcp.getpeername()[:2] == (vip, 80)
                assert udp.getpeername()[:2] == (vip, 53)
                udp.send(b"?")
                data, sender = udp.recvfrom(64)
                assert (data, sender[:2]) == (f"{address} ?".encode(), (vip, 53))


@pytest.mark.parametrize(("vip", "addresses"), [(VIP4, BACKENDS4), (VIP6, BACKENDS6)])
async def test_datagrams_of_one_unconnected_socket_stay_with_one_backend(
    node: Node, vip: str, addresses: tuple[str, ...]
) -> None:
    with serving(node, *addresses):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(*map(backend, addresses))])
            await node.settle()
            seen = set()
            for _ in range(20):
                with node.open_socket(
                    socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM
                ) as udp:
                    answers = set()
                    for _ in range(5):
                        udp.sendto(b"?", (vip, 53))
                        data, sender = udp.recvfrom(64)
                        assert sender[:2] == (vip, 53)
                        answers.add(data)
                    assert len(answers) == 1
                    seen |= answers
            assert len(seen) == len(addresses)


async def test_a_datagram_sender_moves_on_when_its_backend_goes(node: Node) -> None:
    with serving(node, *BACKENDS4[:2]):
        async with node.agent():
            both = [backend(address) for address in BACKENDS4[:2]]
            node.mesh.replace("manifests", [service(), backends(*both)])
            await node.settle()
            with node.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.sendto(b"?", (VIP4, 53))
                first = udp.recvfrom(64)[0].split()[0].decode()
                other = next(address for address in BACKENDS4[:2] if address != first)
                await node.settle(node.mesh.apply("manifests", [backends(backend(other))]))
                udp.sendto(b"?", (VIP4, 53))
                assert udp.recvfrom(64)[0].split()[0].decode() == other


async def test_a_service_without_a_backend_refuses_at_once_and_a_missing_port_is_left_to_the_network(
    node: Node,
) -> None:
    async with node.agent():
        node.mesh.replace("manifests", [service()])
        await node.settle()
        with pytest.raises(ConnectionRefusedError):
            node.connect(VIP4, 80)
        with pytest.raises(ConnectionRefusedError):
            node.connect(VIP6, 53, socket.SOCK_DGRAM)
        with (
            node.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            pytest.raises(ConnectionRefusedError),
        ):
            udp.sendto(b"?", (VIP4, 53))
        with pytest.raises(OSError, match="unreachable") as caught:
            node.connect(VIP4, 81)
        assert caught.value.errno == errno.ENETUNREACH


async def test_weights_decide_how_often_a_backend_is_drawn(node: Node) -> None:
    heavy, light = BACKENDS4[:2]
    with serving(node, heavy, light):
        async with node.agent():
            node.mesh.replace(
                "manifests", [service(), backends(backend(heavy, weight=300), backend(light, weight=100))]
            )
            await node.settle()
            counted = Counter(node.ask(VIP4) for _ in range(800))
            # Binomial: mean 600, standard deviation 12.2; five of them.
            assert 539 <= counted[heavy] <= 661


async def test_client_affinity_holds_until_the_backend_goes(node: Node) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent():
            node.mesh.replace(
                "manifests", [service(affinity_timeout_s=60), backends(*map(backend, BACKENDS4))]
            )
            await node.settle()
            (kept,) = {node.ask(VIP4) for _ in range(20)}
            rest = [address for address in BACKENDS4 if address != kept]
            await node.settle(node.mesh.apply("manifests", [backends(*map(backend, rest))]))
            (moved,) = {node.ask(VIP4) for _ in range(20)}
            assert moved in rest


async def test_a_terminating_backend_serves_only_when_no_ready_one_is_left(node: Node) -> None:
    ready, ending = BACKENDS4[:2]
    gone = {"ready": False, "terminating": True}
    with serving(node, ready, ending):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(ready), backend(ending, **gone))])
            await node.settle()
            assert {node.ask(VIP4) for _ in range(20)} == {ready}
            await node.settle(node.mesh.apply("manifests", [backends(backend(ending, **gone))]))
            assert node.ask(VIP4) == ending


async def test_internal_traffic_policy_local_refuses_without_a_local_backend(node: Node) -> None:
    with serving(node, *BACKENDS4[:2]):
        async with node.agent():
            here, away = backend(BACKENDS4[0], node="node-1"), backend(BACKENDS4[1], node="node-2")
            # A remote cluster may call its node like ours; it is never local.
            remote = backends(backend(BACKENDS4[2], node="node-1"), source="cluster:cm-2", cluster="cm-2")
            node.mesh.replace("cluster:cm-2", [remote])
            node.mesh.replace(
                "manifests", [service(internal_traffic_local=True, is_global=True), backends(here, away)]
            )
            await node.settle()
            assert {node.ask(VIP4) for _ in range(20)} == {BACKENDS4[0]}
            await node.settle(node.mesh.apply("manifests", [backends(away)]))
            with pytest.raises(ConnectionRefusedError):
                node.connect(VIP4, 80)


@pytest.mark.parametrize("by_namespace", [False, True])
async def test_a_workload_that_is_left_out_dials_the_service_address_itself(
    node: Node, by_namespace: bool
) -> None:
    with serving(node, BACKENDS4[0]):
        async with node.agent() as dataplane:
            facts = [Namespace("pods", "manifests", socket_lb=False)] if by_namespace else []
            left_out = node.workload("client", **({} if by_namespace else {"socket_lb": False}))
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0])), left_out, *facts])
            await node.settle()
            with pytest.raises(OSError, match="unreachable"):
                node.connect(VIP4, 80)
            node.mesh.replace(
                "manifests", [service(), backends(backend(BACKENDS4[0])), node.workload("client")]
            )
            await node.settle()
            assert node.ask(VIP4) == BACKENDS4[0]
            assert dict(dataplane.maps["workloads"].items()) == {}


async def test_a_udp_socket_may_connect_elsewhere_and_is_not_taken_for_the_service_any_more(
    node: Node,
) -> None:
    with serving(node, *BACKENDS4[:2]):
        async with node.agent():
            node.mesh.replace("manifests", [service(), backends(backend(BACKENDS4[0]))])
            await node.settle()
            with node.connect(VIP4, 53, socket.SOCK_DGRAM) as udp:
                udp.connect((BACKENDS4[0], 5353))
                assert udp.getpeername() == (BACKENDS4[0], 5353)

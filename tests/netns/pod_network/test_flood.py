"""A pod that begins flows without end takes nothing from the connections of others."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tests.bpf.packets import SYN, TCP, UDP, Packet
from tests.netns.pod_network.frames import send, to
from tests.netns.pod_network.host import ROUTER, UPLINK_MAC, WORLD, Host, Pod, host
from tests.netns.pod_network.traffic import Stream, asked_by_datagram, serving

CONNECTIONS = 1000
FIRST_PACKETS = 20_000
SIZES = {"flows": 8192, "new_flows": 2048}


def flood(pod: Pod, count: int) -> None:
    """First packets of connections to places that never answer, each of another flow."""
    with pod.netns.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(count):
            nowhere = f"198.18.{number >> 8 & 255}.{number & 255}"
            packet = Packet(TCP, pod.ip[4], 1024 + number % 60000, nowhere, 80, b"", flags=SYN)
            raw.sendto(packet.network(), (nowhere, 0))


def connected(node: Host, client: Pod, server: Pod, held: ExitStack) -> list[Stream]:
    """Half of the connections go to the world, half to a pod of the node; of both families."""
    held.enter_context(serving(node.world, 80))
    held.enter_context(serving(server.netns, 80))
    places = (WORLD[4], server.ip[4], WORLD[6], server.ip[6])
    return [
        held.enter_context(Stream(client.netns, places[number % len(places)], 80))
        for number in range(CONNECTIONS)
    ]


@pytest.mark.parametrize("quota", [0, 1500], ids=["unlimited", "with-a-quota"])
def test_a_thousand_idle_connections_outlive_a_flood_of_first_packets(unique_name: str, quota: int) -> None:
    with host(unique_name, SIZES, flow_quota=quota) as node, ExitStack() as held:
        client, server, flooder = (node.add_pod(number) for number in (7, 8, 9))
        streams = connected(node, client, server, held)
        before = node.event("FLOWS_CREATED")
        flood(flooder, FIRST_PACKETS)
        begun = node.event("FLOWS_CREATED") - before
        for stream in streams:
            stream.exchange(200)
        if quota:
            assert begun == quota
            assert node.dropped()["FLOW_QUOTA from pod"] == FIRST_PACKETS - quota
        else:
            assert begun == FIRST_PACKETS
        assert len(node.flows("new_flows")) <= SIZES["new_flows"]


def test_a_full_table_refuses_new_flows_with_its_reason_and_keeps_the_old_ones(unique_name: str) -> None:
    with host(unique_name, {"flows": 100, "new_flows": 2048}) as node, ExitStack() as held:
        client, server = node.add_pod(7), node.add_pod(8)
        held.enter_context(serving(server.netns, 80))
        streams = [held.enter_context(Stream(client.netns, server.ip[4], 80)) for _ in range(100)]
        assert len(node.flows()) == 100
        with pytest.raises(OSError, match="timed out"):
            Stream(client.netns, server.ip[4], 80)
        assert node.dropped().keys() == {"FLOW_TABLE_FULL from pod"}
        for stream in streams:
            stream.exchange(1000)


@pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
def test_who_is_outside_uses_up_nobodys_quota_until_it_is_answered(unique_name: str, family: int) -> None:
    with host(unique_name, SIZES, flow_quota=8) as node:
        pod = node.add_pod(7)
        node.known_outside(pod)
        flood = [Packet(UDP, ROUTER[family], 1000 + each, pod.ip[family], 9) for each in range(20)]
        send(node.world, f"{node.run_name}w", *(to(UPLINK_MAC, each.frame()) for each in flood))
        with serving(node.world, 53, socket.SOCK_DGRAM, ROUTER[family]):
            assert asked_by_datagram(pod.netns, ROUTER[family], 53) == pod.ip[family]
        assert (node.owned(pod.ip[family]), node.dropped()) == (1, {})


def test_what_a_pod_answers_counts_against_its_quota(unique_name: str) -> None:
    with host(unique_name, SIZES, flow_quota=8) as node, ExitStack() as held:
        pod = node.add_pod(7)
        node.known_outside(pod)
        held.enter_context(serving(pod.netns, 53, socket.SOCK_DGRAM))
        for _ in range(8):
            assert asked_by_datagram(node.world, pod.ip[4], 53) == ROUTER[4]
        assert node.owned(pod.ip[4]) == 8
        asking = held.enter_context(node.world.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.sendto(b"one too many", (pod.ip[4], 53))
        with pytest.raises(OSError, match="timed out"):
            Stream(pod.netns, ROUTER[4], 80)
        assert node.dropped().keys() == {"FLOW_QUOTA from pod"}

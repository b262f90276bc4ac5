"""A pod that begins flows without end takes nothing from the connections of others."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tests.bpf.packets import SYN, TCP, Packet
from tests.netns.pod_network.host import WORLD, Host, Pod, host
from tests.netns.pod_network.traffic import Stream, serving

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

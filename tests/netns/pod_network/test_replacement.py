"""Programs come and go while packets flow: a new one takes over in place, and without any the host's stack goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.dataplane.pod_network.places import POD, UPLINK
from tests.netns.pod_network.host import Host, Pod, host, load
from tests.netns.pod_network.traffic import Stream, pinged, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@contextmanager
def under_load(stream: Stream) -> Iterator[list[BaseException]]:
    """The stream sends and checks all the while; what it failed with."""
    failed: list[BaseException] = []
    over = threading.Event()

    def work() -> None:
        try:
            while not over.is_set():
                stream.exchange(500_000)
        except (OSError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()


@FAMILIES
def test_programs_replaced_under_load_lose_no_packet(unique_name: str, bpffs: Path, family: int) -> None:
    with host(unique_name, pins=bpffs) as node:
        replace_under_load(node, bpffs, family)


def replace_under_load(node: Host, pins: Path, family: int) -> None:
    client, server = pods = node.add_pod(7), node.add_pod(8)
    first = node.loaded
    second, _, bpf = load(pins=pins)
    with serving(server.netns, 80), Stream(client.netns, server.ip[family], 80) as stream:
        with under_load(stream) as failed:
            for turn in range(40):
                node.use(second if turn % 2 == 0 else first)
                for pod in pods:
                    node.attach(pod.link.ifindex, POD)
                assert pinged(client.netns, server.ip[family], identifier=turn + 1)[0] == server.ip[family]
        retransmitted = stream.retransmitted()
    node.use(first)
    second.close()
    bpf.close()
    assert (failed, retransmitted, node.dropped()) == ([], 0, {})


@FAMILIES
def test_connections_between_pods_outlive_the_programs(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    client, server = pods
    with serving(server.netns, 80), Stream(client.netns, server.ip[family], 80) as stream:
        with under_load(stream) as failed:
            for pod in pods:
                node.detach(pod.link.ifindex, POD)
            node.detach(node.uplink, UPLINK)
            before = node.event("TO_POD")
            with Stream(client.netns, server.ip[family], 80) as later:
                later.exchange(1_000_000)
            with Stream(node.netns, server.ip[family], 80) as from_host:
                from_host.exchange(100_000)
        assert node.event("TO_POD") == before
    assert failed == []


@FAMILIES
def test_connections_older_than_the_programs_go_on(node: Host, family: int) -> None:
    client, server = node.add_pod(7, attached=False), node.add_pod(8, attached=False)
    with serving(server.netns, 80), Stream(client.netns, server.ip[family], 80) as stream:
        stream.exchange(100_000)
        for pod in (client, server):
            node.attach(pod.link.ifindex, POD)
        stream.exchange(1_000_000)
        with Stream(client.netns, server.ip[family], 80) as later:
            later.exchange(100_000)
    assert (node.dropped(), len(node.flows())) == ({}, 1)

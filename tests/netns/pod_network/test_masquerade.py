"""Pods that talk to the world under the node's address: what is too big, cut, refused or lost on the way."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from meshd.kernel.netns import Netns
from tests.netns.pod_network.beyond import FAR, far
from tests.netns.pod_network.host import NODE, ROUTER, WORLD, Host, Pod
from tests.netns.pod_network.traffic import Stream, asked, asked_by_datagram, pinged, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
NARROW = 1300
# Of <linux/in.h> and <linux/in6.h>; not in Python's socket.
MTU_OPTION = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}
DISCOVER_OPTION = {4: (socket.IPPROTO_IP, 10, 2), 6: (socket.IPPROTO_IPV6, 23, 2)}


@pytest.fixture
def narrow(node: Host) -> Iterator[Netns]:
    """A place behind a link that takes smaller packets than the pods' links."""
    with far(node, NARROW) as made:
        yield made


@FAMILIES
def test_a_pod_learns_how_much_fits_on_the_way(
    node: Host, pods: tuple[Pod, Pod], narrow: Netns, family: int
) -> None:
    with serving(narrow, 80), Stream(pods[0].netns, FAR[family], 80) as stream:
        stream.exchange(1_000_000)
        assert stream.socket.getsockopt(*MTU_OPTION[family]) == NARROW
        assert stream.asker == NODE[family]
    assert node.dropped() == {}


@FAMILIES
def test_a_datagram_that_does_not_fit_is_refused_with_its_reason(
    pods: tuple[Pod, Pod], narrow: Netns, family: int
) -> None:
    assert narrow.fd >= 0
    address_family = socket.AF_INET if family == 4 else socket.AF_INET6
    with pods[0].netns.socket(address_family, socket.SOCK_DGRAM) as client:
        client.setsockopt(*DISCOVER_OPTION[family])
        client.connect((FAR[family], 53))
        client.settimeout(5)
        client.send(bytes(1400))
        with pytest.raises(OSError, match="Message too long") as refused:
            client.recv(1)
        assert refused.value.errno == errno.EMSGSIZE
        assert client.getsockopt(*MTU_OPTION[family]) == NARROW


@FAMILIES
def test_a_closed_port_outside_is_refused_at_once(pods: tuple[Pod, Pod], node: Host, family: int) -> None:
    address_family = socket.AF_INET if family == 4 else socket.AF_INET6
    with pods[0].netns.socket(address_family, socket.SOCK_DGRAM) as client:
        client.connect((WORLD[family], 53))
        client.settimeout(5)
        client.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        Stream(pods[0].netns, WORLD[family], 81)
    assert node.dropped() == {}


@FAMILIES
def test_a_port_that_a_pod_closed_is_known_outside(pods: tuple[Pod, Pod], node: Host, family: int) -> None:
    """The pod's own complaint, about an answer that came too late."""
    address_family = socket.AF_INET if family == 4 else socket.AF_INET6
    with node.world.socket(address_family, socket.SOCK_DGRAM) as server:
        server.bind((WORLD[family], 53))
        server.settimeout(5)
        with pods[0].netns.socket(address_family, socket.SOCK_DGRAM) as client:
            client.sendto(b"question", (WORLD[family], 53))
            _, asker = server.recvfrom(100)
        assert asker[0] == NODE[family]
        server.connect(asker)
        server.send(b"answer")
        with pytest.raises(ConnectionRefusedError):
            server.recv(100)


@FAMILIES
def test_routers_on_the_way_are_seen(pods: tuple[Pod, Pod], narrow: Netns, family: int) -> None:
    assert narrow.fd >= 0
    exceeded, answered = {4: (11, 0), 6: (3, 129)}[family]
    seen = [pinged(pods[0].netns, FAR[family], ttl=ttl) for ttl in (3, 2, 1)]
    assert seen[:2] == [(FAR[family], answered), (ROUTER[family], exceeded)]
    assert seen[2][1] == exceeded


@FAMILIES
def test_what_is_cut_into_fragments_arrives_both_ways(node: Host, pods: tuple[Pod, Pod], family: int) -> None:
    """A router cuts IPv4's once more; IPv6's it refuses, as it must."""
    with far(node, NARROW if family == 4 else 1500) as beyond:
        with serving(beyond, 53, socket.SOCK_DGRAM):
            assert asked_by_datagram(pods[0].netns, FAR[family], 53, size=8000) == NODE[family]
        assert pinged(pods[0].netns, FAR[family], size=5000)[0] == FAR[family]
    assert node.dropped() == {}


@FAMILIES
def test_pods_with_the_same_port_and_the_host_itself_talk_to_one_place(
    node: Host, pods: tuple[Pod, Pod], family: int
) -> None:
    with (
        serving(node.world, 80),
        Stream(pods[0].netns, WORLD[family], 80, (pods[0].ip[family], 50500)) as first,
        Stream(pods[1].netns, WORLD[family], 80, (pods[1].ip[family], 50500)) as second,
        Stream(node.netns, WORLD[family], 80, (NODE[family], 50501)) as host,
        Stream(pods[0].netns, WORLD[family], 80, (pods[0].ip[family], 50501)) as third,
    ):
        everybody = (first, second, host, third)
        assert len({stream.asker_port for stream in everybody}) == 4
        for stream in everybody:
            stream.exchange(100_000)
            assert stream.asker == NODE[family]


@FAMILIES
def test_a_pod_whose_packets_stay_on_the_stack_is_masqueraded_there(node: Host, family: int) -> None:
    pod = node.add_pod(9, via_stack=True)
    with serving(node.world, 80), serving(node.world, 53, socket.SOCK_DGRAM, WORLD[family]):
        assert asked(pod.netns, WORLD[family], 80, 1_000_000) == NODE[family]
        assert asked_by_datagram(pod.netns, WORLD[family], 53, size=5000) == NODE[family]
    assert pinged(pod.netns, WORLD[family])[0] == WORLD[family]
    assert (node.dropped(), node.event("TO_UPLINK"), node.event("TO_POD")) == ({}, 0, 0)

"""Of a pod that another plugin attached, services are translated, and nothing else is touched."""

from __future__ import annotations

import pytest

from tests.bpf.packets import SYN, TCP, UDP, Packet
from tests.netns.pod_network.frames import send, to
from tests.netns.pod_network.host import WORLD, Host, Pod
from tests.netns.pod_network.traffic import asked, serving

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture
def observed(node: Host, pods: tuple[Pod, Pod]) -> Pod:
    """A pod that is not ours."""
    node.write_pod(pods[0], observed=True)
    return pods[0]


@FAMILIES
def test_its_packets_take_the_hosts_stack_under_its_own_address(
    node: Host, observed: Pod, pods: tuple[Pod, Pod], family: int
) -> None:
    with serving(pods[1].netns, 80):
        assert asked(observed.netns, pods[1].ip[family], 80) == observed.ip[family]
    assert (node.event("TO_POD"), node.event("TO_UPLINK"), node.dropped()) == (0, 0, {})


@FAMILIES
def test_it_is_not_masqueraded(node: Host, observed: Pod, family: int) -> None:
    packet = Packet(TCP, observed.ip[family], 40000, WORLD[family], 80, flags=SYN)
    assert node.run("pod_network_to_uplink", None, packet).data[14:] == packet.network()
    assert (node.flows("new_flows"), node.dropped()) == ({}, {})


@FAMILIES
def test_it_may_have_addresses_that_nobody_told_of(node: Host, observed: Pod, family: int) -> None:
    packet = Packet(UDP, {4: "10.9.9.9", 6: "fd99::9"}[family], 1000, WORLD[family], 53)
    send(observed.netns, "eth0", to(observed.link.host_mac, packet.frame()))
    assert (node.dropped(), node.event("TO_STACK")) == ({}, 1)


def test_on_others_links_nobody_speaks_in_its_name(node: Host, observed: Pod, pods: tuple[Pod, Pod]) -> None:
    packet = Packet(UDP, observed.ip[4], 1000, WORLD[4], 53)
    send(pods[1].netns, "eth0", to(pods[1].link.host_mac, packet.frame()))
    assert node.dropped() == {"SOURCE_NOT_THE_PODS from pod": 1}

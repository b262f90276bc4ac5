"""Traffic of pods while the agent dies, comes back and is taken away for good."""

from __future__ import annotations

from functools import partial

from meshd.dataplane.features import SHORT_CIRCUIT, SOCKET_LB
from meshd.dataplane.pod_network import routes
from meshd.dataplane.pod_network.places import POD
from meshd.dataplane.pod_network.sysctls import RESERVED_PORTS
from meshd.kernel.route_socket import RouteSocket
from tests.netns.cni.node import CniNode, reaches
from tests.netns.pod_network_agent.commands import cleanup, drops
from tests.netns.pod_network_agent.in_kernel import filters_on, links_of, pins, pods
from tests.netns.pod_network_agent.traffic import stream

TRY_AGAIN_LATER = 11
FORWARD = "net/ipv4/ip_forward"


def test_a_killed_agent_is_missed_by_new_pods_only(node: CniNode) -> None:
    first, one = node.add("one")
    second, two = node.add("two")
    with stream(first, second, two.addresses[0]) as v4, stream(second, first, one.addresses[1]) as v6:
        node.agent.kill()
        assert v4.goes_on()
        assert v6.goes_on()
        third = node.pod("three")
        refused = node.ask("ADD", "three", third)
        assert (refused.status, refused.said["code"]) == (1, TRY_AGAIN_LATER)
        node.start()
        added = node.ask("ADD", "three", third)
        assert added.status == 0
        node.agent.wait(lambda: all(reaches(third, address) for address in (*one.addresses, *two.addresses)))


def test_programs_are_replaced_under_traffic(node: CniNode) -> None:
    first, _ = node.add("one")
    second, two = node.add("two")
    [link, _] = node.links()
    with stream(first, second, two.addresses[0]) as v4, stream(first, second, two.addresses[1], 9001) as v6:
        for _ in range(3):
            before = set(filters_on(node, link).values())
            node.agent.kill()
            node.start()
            node.agent.wait(partial(are_others, node, link, before))
            assert v4.goes_on()
            assert v6.goes_on()


def are_others(node: CniNode, link: str, before: set[int]) -> bool:
    """Whether none of the programs ``before`` is on the link any more."""
    return before.isdisjoint(filters_on(node, link).values())


def test_after_a_cleanup_pods_talk_by_address_as_before(node: CniNode) -> None:
    node.netns.write_sysctl(RESERVED_PORTS, "8080,50000-65535")
    first, _ = node.add("one")
    second, two = node.add("two")
    with stream(first, second, two.addresses[0]) as v4, stream(first, second, two.addresses[1], 9001) as v6:
        node.agent.kill()
        status, said = cleanup(node)
        assert (status, "removed 10 hooks, programs on 2 devices and " in said) == (0, True), said
        assert [filters_on(node, link) for link in node.links()] == [{}, {}]
        assert (links_of(node), list(pins(node).glob("*/*"))) == ({}, [])
        assert v4.goes_on()
        assert v6.goes_on()
        assert reaches(first, two.addresses[1])
        assert reaches(node.netns, two.addresses[0])


def test_one_feature_can_be_taken_out_alone_and_the_other_goes_on(node: CniNode) -> None:
    first, _ = node.add("one")
    _, two = node.add("two")
    node.agent.kill()
    status, said = cleanup(node, "socket_lb")
    assert (status, "removed 10 hooks and 0 maps" in said) == (0, True), said
    assert all(filters_on(node, link) for link in node.links())
    assert reaches(first, two.addresses[0])
    assert cleanup(node, "short_circuit")[0] == 0
    status, said = cleanup(node, "pod_network")
    assert (status, "removed 0 hooks, programs on 2 devices and " in said) == (0, True), said
    kept = {pin.name.rpartition("_")[0] for pin in pins(node).glob("maps/*")}
    assert kept == {name for of in (SOCKET_LB, SHORT_CIRCUIT) for name in (*of.maps, *of.kernel_maps)}
    assert reaches(first, two.addresses[0])
    assert cleanup(node)[0] == 0
    assert list(pins(node).glob("*/*")) == []


def test_a_feature_that_does_not_exist_is_named_and_nothing_is_taken_out(node: CniNode) -> None:
    node.agent.kill()
    said = "meshd: cleanup: socket is no feature: socket_lb, pod_network, short_circuit\n"
    assert cleanup(node, "socket") == (1, said)
    assert list(pins(node).glob("links/*"))


def test_a_cleanup_gives_the_node_its_sysctls_back_but_forwards_as_long_as_there_are_pods(
    node: CniNode,
) -> None:
    netns, _ = node.add("one")
    assert node.netns.read_sysctl(RESERVED_PORTS) == "50000-65535"
    node.agent.kill()
    assert cleanup(node)[0] == 0
    assert (node.netns.read_sysctl(RESERVED_PORTS), node.netns.read_sysctl(FORWARD)) == ("", "1")
    node.start()
    assert node.ask("DEL", "one", netns).status == 0
    node.agent.wait(lambda: node.links() == [])
    node.agent.kill()
    assert cleanup(node)[0] == 0
    assert (node.netns.read_sysctl(RESERVED_PORTS), node.netns.read_sysctl(FORWARD)) == ("", "0")
    assert node.netns.run(routes_of_meshd) == []


def routes_of_meshd() -> list[str]:
    with RouteSocket() as route:
        return [str(network) for network in routes.present(route)]


def test_after_a_cleanup_a_new_start_takes_the_pods_over_and_drops_nothing(node: CniNode) -> None:
    first, one = node.add("one")
    second, two = node.add("two")
    with stream(first, second, two.addresses[0]) as v4, stream(second, first, one.addresses[1]) as v6:
        node.agent.kill()
        assert cleanup(node)[0] == 0
        node.start()
        node.agent.wait(
            lambda: all(filters_on(node, link).keys() == set(POD.programs) for link in node.links())
        )
        assert pods(node).keys() == {*one.addresses, *two.addresses}
        assert v4.goes_on()
        assert v6.goes_on()
    assert drops(node) == {}

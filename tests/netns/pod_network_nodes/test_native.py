"""Nodes that share a link find each other through etcd, and their pods reach each other under their own addresses."""

from __future__ import annotations

import signal

import pytest

from meshd.api.v1 import node_pb2
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from tests.netns.cni.node import reaches
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd")


def know_each_other(*nodes: FabricNode) -> None:
    names = {f"{node.cluster}/n{node.number}" for node in nodes}
    for node in nodes:
        others = names - {f"{node.cluster}/n{node.number}"}
        node.agent.wait(lambda node=node, others=others: node.knows(*others))  # type: ignore[misc] # bound defaults
        node.agent.wait(lambda node=node, others=others: len(node.routes()) == 2 * len(others) + 2)  # type: ignore[misc] # the same


def rows_of(node: FabricNode) -> dict[str, str]:
    """What others have of ``node`` in their kernels."""
    number = node.number
    pods = f"10.77.{number}.0/120", f"fd77:0:0:{number}::/64"
    own = node.v4, node.v6, f"10.77.{number}.0", f"fd77:0:0:{number}::"
    return dict.fromkeys([*pods, *(f"{address}/128" for address in own)], "NATIVE")


def test_pods_of_two_nodes_of_a_cluster_reach_each_other(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    shown = first.nodes()["cm-1/n2"]
    assert (list(shown.addresses), list(shown.pod_cidrs), shown.routing) == (
        [second.v4, second.v6],
        ["10.77.2.0/24", "fd77:0:0:2::/64"],
        "native",
    )
    assert first.routes()["10.77.2.0/24"]["gateway"] == second.v4
    here, _ = first.add("here")
    _, answer = second.add("there")
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    assert [reaches(first.netns, address) for address in answer.addresses] == [True, True]


def test_pods_of_two_clusters_reach_each_other(fabric: Fabric) -> None:
    fabric.join("cm-1", "cm-2")
    first, second = fabric.node(1, "cm-1"), fabric.node(2, "cm-2", "native")
    first.start()
    second.start()
    know_each_other(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    assert first.nodes()["cm-2/n2"].source == "cluster:cm-2"


def test_a_dead_agent_goes_stale_at_its_peers_and_its_pods_stay_reached(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    second.agent.kill()
    first.agent.wait(lambda: first.nodes()["cm-1/n2"].state == node_pb2.NODE_STATE_STALE)
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    # Also a restart of the one that knows it from its journal only.
    first.agent.kill(signal.SIGTERM)
    first.start()
    first.agent.wait(lambda: first.nodes()["cm-1/n2"].state == node_pb2.NODE_STATE_STALE)
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    said = first.agent.status()
    assert said is not None
    assert "node cm-1/n2 is stale: its record is gone, what it said stands" in said.warnings
    second.start()
    know_each_other(first, second)


def test_a_restart_while_etcd_is_away_changes_nothing(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    fabric.etcd("cm-1").stop()
    first.agent.kill()
    first.start()
    said = first.agent.status()
    assert said is not None
    assert first.destinations() == rows_of(second)
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    # An etcd that comes back empty is filled by the nodes themselves, and takes nobody away.
    fabric.etcd("cm-1").wipe()
    fabric.etcd("cm-1").start()
    know_each_other(first, second)
    assert first.destinations() == rows_of(second)
    assert not any(
        "deleted" in str(entry["event"]) for entry in first.agent.log() if "destinations" in str(entry)
    )


def test_what_the_kernel_held_stands_until_etcd_has_spoken_though_no_journal_tells_of_it(
    fabric: Fabric,
) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    first.agent.kill()
    second.agent.kill()
    etcd = fabric.etcd("cm-1")
    etcd.ctl("del", "--prefix", "cilium/state/")
    etcd.stop()
    (first.agent.directory / "state" / "journal" / "etcd.journal").unlink()
    first.start()
    first.agent.wait(lambda: first.node().addresses == [first.v4, first.v6])
    assert (first.nodes(), first.destinations()) == ({}, rows_of(second))
    assert set(first.routes()) >= {"10.77.2.0/24", "fd77:0:0:2::/64"}
    assert [reaches(here, address) for address in answer.addresses] == [True, True]
    etcd.start()
    first.agent.wait(lambda: first.destinations() == {})
    first.agent.wait(lambda: set(first.routes()) == {"10.77.1.0/24", "fd77:0:0:1::/64"})


def test_a_node_that_loses_its_default_route_for_a_moment_stays_known(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    here, _ = first.add("here")
    _, answer = second.add("there")
    second.run_ip("route", "del", "default")
    second.run_ip("-6", "route", "del", "default")
    second.agent.wait(lambda: any(entry.get("devices") == [] for entry in second.agent.log()))
    assert list(second.node().addresses) == list(first.nodes()["cm-1/n2"].addresses) == [second.v4, second.v6]
    assert (first.destinations(), second.destinations()) == (rows_of(second), rows_of(first))
    assert [reaches(here, address) for address in answer.addresses] == [True, True]


def test_an_operator_forgets_a_stale_node_and_its_routes_go(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    second.agent.kill()
    first.agent.wait(lambda: first.nodes()["cm-1/n2"].state == node_pb2.NODE_STATE_STALE)
    assert set(first.routes()) >= {"10.77.2.0/24", "fd77:0:0:2::/64"}
    assert first.destinations() == rows_of(second)
    with first.agent.channel() as channel:
        NodeServiceStub(channel).DeleteNode(node_pb2.DeleteNodeRequest(name="n2"), timeout=patience(5))
    first.agent.wait(lambda: set(first.routes()) == {"10.77.1.0/24", "fd77:0:0:1::/64"})
    assert (first.nodes(), first.destinations()) == ({}, {})


def test_routes_that_somebody_deletes_are_put_back_and_those_of_others_stand(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.run_ip("route", "add", "10.77.2.0/24", "via", "192.168.70.254", "proto", "static")
    first.start()
    second.start()
    first.agent.wait(lambda: first.knows("cm-1/n2"))
    first.agent.wait(lambda: "fd77:0:0:2::/64" in first.routes())
    first.run_ip("-6", "route", "del", "fd77:0:0:2::/64")
    first.agent.wait(lambda: "fd77:0:0:2::/64" in first.routes())
    assert "10.77.2.0/24" not in first.routes()
    said = first.agent.status()
    assert said is not None
    assert "route to 10.77.2.0/24: somebody else has a route there, which stands" in said.warnings
    first.run_ip("route", "del", "10.77.2.0/24")
    first.agent.wait(lambda: "10.77.2.0/24" in first.routes())


def test_addresses_in_the_own_cidr_that_no_pod_has_are_not_sent_round_in_circles(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2)
    first.start()
    second.start()
    know_each_other(first, second)
    assert first.routes()["10.77.1.0/24"]["type"] == "unreachable"


def test_what_another_node_claims_of_this_one_is_refused_and_named(fabric: Fabric) -> None:
    first, second = fabric.node(1), fabric.node(2, cni={"podCidrs": ["10.77.1.0/25"]})
    first.start()
    second.agent.start(cni={"socket": str(second.socket), "podCidrs": ["10.77.1.0/25"]})
    first.agent.wait(lambda: "cm-1/n2" in first.nodes())
    shown = first.nodes()["cm-1/n2"]
    assert shown.state == node_pb2.NODE_STATE_REFUSED
    assert shown.reason == "10.77.1.0/25 belongs to this node"
    assert set(first.routes()) == {"10.77.1.0/24", "fd77:0:0:1::/64"}

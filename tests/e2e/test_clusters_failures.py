"""Two clusters when something dies: agents, etcds, directories, the publisher. What was true before stays in the kernel.

Of every measure used here a test shows that it does notice a loss.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clustermesh import keys
from meshd.api.v1 import status_pb2
from tests.e2e.clusters import GLOBAL, Cluster, Node, TwoClusters
from tests.e2e.traces import wait_for

# Backends: two of cm-1, of which one may leave, and one of cm-2.
FIRST, LEAVING, SECOND = "198.18.1.11", "198.18.1.12", "198.18.2.11"
CLIENTS = 30
WEB, STALE = 1, 2
Make = Callable[..., TwoClusters]
Seen = dict[str, dict[str, int]]


def running(two: TwoClusters) -> Node:
    """The node of cm-2, once it has service web with the backends of both clusters; all of them answer."""
    node = two.second.nodes[0]
    two.serve(FIRST, LEAVING, SECOND)
    two.first.write("web", WEB, ready=(FIRST, LEAVING), **GLOBAL)
    two.second.write("web", WEB, ready=(SECOND,), **GLOBAL)
    two.second.write("stale", STALE, ready=(SECOND,))
    two.start()
    node.wait(lambda: node.backends(two.second.vip(WEB)) == {FIRST, LEAVING, SECOND})
    return node


def killed_with_all_sources_away(two: TwoClusters, node: Node) -> Path:
    """Kills the agent and stops every etcd; where the manifests are meanwhile."""
    node.kill()
    for cluster in two.clusters:
        cluster.etcd.stop()
    return two.second.manifests.rename(two.second.directory / "away")


def has_looked_in_vain(node: Node) -> bool:
    """Whether the agent found its manifests missing and gave the other cluster's etcd up once."""
    manifests, cluster = node.source("manifests"), node.cluster_row("cm-1")
    return (
        manifests is not None
        and manifests.state == status_pb2.SOURCE_STATE_STALE
        and cluster.peer.reconnects >= 1
    )


@pytest.mark.parametrize("away_s", [0.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_an_agent_killed_under_load_with_every_source_away_loses_no_row_and_no_connection(
    make_clusters: Make, away_s: float
) -> None:
    two = make_clusters()
    node = running(two)

    def away_and_back() -> None:
        before = node.rows()
        away = killed_with_all_sources_away(two, node)
        (away / "stale.yaml").unlink()
        two.first.write("web", WEB, ready=(FIRST,), **GLOBAL)
        node.start()
        until = time.monotonic() + away_s

        def nothing_was_lost_so_far() -> bool:
            assert node.rows() == before
            return has_looked_in_vain(node) and time.monotonic() >= until

        node.wait(nothing_was_lost_so_far, away_s + 30)
        for cluster in two.clusters:
            cluster.etcd.start()
        away.rename(two.second.manifests)
        node.wait(lambda: node.backends(two.second.vip(STALE)) is None)
        node.wait(lambda: node.backends(two.second.vip(WEB)) == {FIRST, SECOND})

    seen = node.under_load(two.second.vip(WEB), CLIENTS, away_and_back)
    assert (set(seen["answers"]), seen["failures"]) == ({FIRST, LEAVING, SECOND}, {})


def test_rows_and_connections_that_are_lost_would_be_noticed(make_clusters: Make) -> None:
    two = make_clusters()
    node = running(two)

    def empty_instead_of_away() -> None:
        before = node.rows()
        killed_with_all_sources_away(two, node)
        # An empty directory does say that there is nothing, where a missing one says nothing.
        two.second.manifests.mkdir()
        node.start()
        node.wait(lambda: node.rows() != before)
        node.wait(lambda: node.backends(two.second.vip(WEB)) is None)

    assert node.under_load(two.second.vip(WEB), CLIENTS, empty_instead_of_away)["failures"] != {}


def test_a_peer_whose_file_was_removed_while_no_agent_ran_takes_its_backends_with_it(
    make_clusters: Make,
) -> None:
    two = make_clusters()
    node = running(two)
    node.kill()
    (two.second.peers / "cm-1").unlink()
    assert node.dial(two.second.vip(WEB))["failures"] == {}
    node.start()
    node.wait(lambda: node.backends(two.second.vip(WEB)) == {SECOND})
    assert node.source("cluster:cm-1") is None


def test_a_missing_directory_of_peers_takes_nothing_until_it_is_back_and_read(make_clusters: Make) -> None:
    two = make_clusters()
    node = running(two)
    before = node.rows()
    node.kill()
    away = two.second.peers.rename(two.second.directory / "away")
    (away / "cm-1").unlink()
    node.start()

    def everything_else_was_read() -> bool:
        assert node.rows() == before
        clusters, manifests = node.source("clustermesh"), node.source("manifests")
        return (
            clusters is not None
            and manifests is not None
            and (clusters.state, manifests.state)
            == (status_pb2.SOURCE_STATE_STALE, status_pb2.SOURCE_STATE_COMPLETE)
        )

    node.wait(everything_else_was_read)
    away.rename(two.second.peers)
    node.wait(lambda: node.backends(two.second.vip(WEB)) == {SECOND})


def test_an_empty_etcd_in_place_of_the_old_one_takes_no_backend(make_clusters: Make) -> None:
    two = make_clusters()
    node, vip = running(two), two.second.vip(WEB)
    before = node.rows()
    two.first.nodes[0].kill()
    two.first.etcd.stop()
    two.first.etcd.wipe()
    two.first.etcd.start()

    def waits_for_the_cluster() -> bool:
        assert node.rows() == before
        return keys.cluster_config("cm-1") in node.cluster_row("cm-1").reason

    node.wait(waits_for_the_cluster)
    seen = node.dial(vip)
    assert seen["failures"] == {}
    # Once its publisher has filled it, it is believed again.
    two.first.write("web", WEB, ready=(LEAVING,), **GLOBAL)
    two.first.nodes[0].start()
    node.wait(lambda: node.backends(vip) == {LEAVING, SECOND})


# The publisher


def publisher(cluster: Cluster) -> tuple[Node | None, int]:
    """The node that holds the office, and the revision of etcd at which it did."""
    answer = cluster.etcd.ctl("get", keys.publisher(cluster.name))
    held = answer.get("kvs") or []
    name = base64.b64decode(held[0]["value"]).decode().partition("/")[0] if held else ""
    holder = next((node for node in cluster.nodes if node.options["nodeName"] == name), None)
    return holder, answer["header"]["revision"]


def leases_of_records(cluster: Cluster) -> set[int]:
    """The leases by which all that ``cluster`` says lives now."""
    answer = cluster.etcd.ctl("get", "--prefix", "cilium/")
    return {item["lease"] for item in answer["kvs"]}


def living_leases(cluster: Cluster) -> set[int]:
    return {lease["id"] for lease in cluster.etcd.ctl("lease", "list")["leases"]}


def vanished(cluster: Cluster, revision: int) -> set[str]:
    """Every key that was deleted at any moment since ``revision``."""
    marker = "cilium/marker-of-a-test"
    cluster.etcd.ctl("put", marker, "now")
    events = cluster.etcd.history("cilium/", revision, base64.b64encode(marker.encode()).decode())
    return {base64.b64decode(event["kv"]["key"]).decode() for event in events if event.get("type") == 1}


def test_a_killed_publisher_is_succeeded_and_no_key_vanishes(make_clusters: Make) -> None:
    two = make_clusters(nodes_of_first=2, data_lease_s=6)
    node, cluster = running(two), two.first
    killed, revision = publisher(cluster)
    assert killed is not None
    leases = leases_of_records(cluster)
    killed.kill()
    # What is changed now only a successor can publish.
    cluster.write("web", WEB, ready=(FIRST,), **GLOBAL)
    node.wait(lambda: node.backends(two.second.vip(WEB)) == {FIRST, SECOND})
    successor, _ = publisher(cluster)
    assert successor not in (None, killed)
    own = successor_leases(cluster, successor)
    wait_for(lambda: not (leases - own) & living_leases(cluster), "the end of the old publisher's leases")
    # The dead node's own record does go: its leases did end.
    name = str(killed.options["nodeName"])
    assert vanished(cluster, revision) == {keys.node("cm-1", name)}


def successor_leases(cluster: Cluster, successor: Node | None) -> set[int]:
    """The lease of the node's own record, which was there before it was elected."""
    assert successor is not None
    key = keys.node(cluster.name, str(successor.options["nodeName"]))
    return {item["lease"] for item in cluster.etcd.ctl("get", key)["kvs"]}


def test_keys_that_vanish_would_be_noticed(make_clusters: Make) -> None:
    two = make_clusters(data_lease_s=6)
    running(two)
    only, revision = publisher(two.first)
    assert only is not None
    only.kill()
    wait_for(lambda: not living_leases(two.first), "the end of all leases")
    assert keys.service("cm-1", "default", "web") in vanished(two.first, revision)

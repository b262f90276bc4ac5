"""Which failovers are remembered: real plans of a mesh of three clusters, seen from cm-1, over clocks of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane import failover_history
from meshd.dataplane.failover_history import FailoverHistory
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Layouts, layouts
from meshd.dataplane.probes.confirmation import Connects
from meshd.dataplane.socket_lb import Planner
from meshd.kernel.object import BpfObject
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Node,
    OnStale,
    Outage,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.failover import parse_ladder
from meshd.model.failover_history import Cause, Failover
from meshd.state import Mesh

WEB, DB = ServiceName("default", "web"), ServiceName("default", "db")
WALL_S = 1_800_000_000.0


@pytest.fixture(scope="module")
def made() -> Iterator[Layouts]:
    with BpfObject.open() as bpf:
        yield layouts(bpf.btf)


class Site:
    """A node of cm-1. ``now`` is both clocks; the kernel holds what the mesh wants 10 ms after `write` is called."""

    def __init__(self, made: Layouts, past: list[Failover] | None = None) -> None:
        self.mesh = Mesh()
        self.now = 100.0
        self.history = FailoverHistory(
            self.mesh, "cm-1", past or [], lambda: self.now, lambda: WALL_S + self.now
        )
        self.planner = Planner(made, "n1", Held(made, {}), cluster="cm-1")

    def service(self, name: ServiceName, port: int, ladder: str = "any", **facts: object) -> None:
        frontend = Frontend(parse_address("10.96.0.1"), port, Protocol.TCP)
        service = Service(name, "manifests", (frontend,), is_global=True, failover=parse_ladder(ladder))
        self.mesh.apply("manifests", [replace(service, **facts)])  # type: ignore[arg-type] # fields of all types

    def backends(self, name: ServiceName, cluster: str, *addresses: str, **facts: object) -> None:
        source = "manifests" if cluster == "cm-1" else f"cluster:{cluster}"
        ports = (BackendPort("", Protocol.TCP, 80),)
        found = (Backend(parse_address(each), ports, **facts) for each in addresses)  # type: ignore[arg-type] # as above
        self.mesh.listing(source)
        self.mesh.apply(source, [BackendSlice(name, "part", source, cluster, tuple(found))])

    def node(self, cluster: str, name: str, cidr: str) -> None:
        self.mesh.apply(f"cluster:{cluster}", [Node(cluster, name, f"cluster:{cluster}", pod_cidrs=(cidr,))])

    def falls(self, cluster: str, node: str, silent_s: float = 0.6) -> None:
        outage = Outage(cluster, node, WALL_S + self.now, "it does not answer probes", silent_s=silent_s)
        self.mesh.apply("probes", [outage])

    def answers(self, cluster: str, node: str) -> None:
        self.mesh.apply("probes", deletes=[(Outage, ("probes", cluster, node))])

    def write(self, after_s: float = 0.01) -> None:
        self.now += after_s
        for key in sorted(self.mesh.take_changes()):
            if key.kind == "service":
                name = ServiceName(*key.name.split("/", 1))
                self.history.written(key, self.planner.service(self.mesh, name))
                self.mesh.report(key, None)

    def said(self) -> list[str]:
        return [line(each) for each in self.history.failovers]


def line(one: Failover) -> str:
    moves = ", ".join(
        f"{move.service.name} {shares(move.before)} -> {shares(move.after)} in {move.switch_s:.3f}"
        for move in one.moves
    )
    ended = "goes on" if one.ended_s is None else f"{one.ended_s - one.found_s:.2f} s"
    return f"{one.cluster} {one.cause.value} {'+'.join(one.nodes)}: {moves}: {ended}"


def shares(found: object) -> str:
    assert isinstance(found, dict)
    return "+".join(f"{name} {share:.2f}" for name, share in sorted(found.items())) or "nobody"


@pytest.fixture
def site(made: Layouts) -> Site:
    """``web`` has one backend here and two in cm-2, on two nodes; ``db`` two in cm-2 only."""
    site = Site(made)
    site.service(WEB, 80)
    site.service(DB, 5432)
    site.backends(WEB, "cm-1", "10.1.0.1")
    site.node("cm-2", "n1", "10.2.1.0/24")
    site.node("cm-2", "n2", "10.2.2.0/24")
    site.backends(WEB, "cm-2", "10.2.1.1", "10.2.2.1")
    site.backends(DB, "cm-2", "10.2.1.2", "10.2.2.2")
    site.write()
    assert site.said() == []
    return site


def test_a_silent_node_is_a_failover_of_the_services_that_it_carried(site: Site) -> None:
    site.falls("cm-2", "n1", 0.7)
    site.write(0.05)
    assert site.said() == [
        "cm-2 silent n1: db cm-2 1.00 -> cm-2 1.00 in 0.050, "
        "web cm-1 0.33+cm-2 0.67 -> cm-1 0.50+cm-2 0.50 in 0.050: goes on"
    ]
    (one,) = site.history.failovers
    assert [one.detection_s, one.switch_s, one.moved] == pytest.approx([0.7, 0.05, 2])
    assert one.found_s == WALL_S + 100.01
    site.now += 3
    site.answers("cm-2", "n1")
    site.write()
    assert site.said()[0].endswith(": 3.05 s")


def test_nodes_that_fall_together_are_one_failover_and_the_longest_detection_counts(site: Site) -> None:
    site.falls("cm-2", "n1", 0.6)
    site.write()
    site.now += 0.3
    site.falls("cm-2", "n2", 0.9)
    site.write(0.02)
    (one,) = site.history.failovers
    assert one.nodes == ("n1", "n2")
    assert [one.detection_s, one.switch_s] == pytest.approx([0.9, 0.02])
    assert site.history.detection_s == {"cm-2": pytest.approx(0.9)}
    # Nobody else has db, so it stays with who does not answer.
    db = [move for move in one.moves if move.service == DB]
    assert (db[-1].before, db[-1].after) == ({"cm-2": 1.0}, {"cm-2": 1.0})
    site.answers("cm-2", "n1")
    assert site.history.failovers[0].ended_s is None
    site.answers("cm-2", "n2")
    assert site.history.failovers[0].ended_s is not None


def test_a_node_that_falls_later_is_another_failover(site: Site) -> None:
    site.falls("cm-2", "n1")
    site.write()
    site.now += failover_history.TOGETHER_S + 1
    site.falls("cm-2", "n2")
    site.write()
    assert [each.nodes for each in site.history.failovers] == [("n1",), ("n2",)]
    assert site.history.counts == {("cm-2", Cause.SILENT): 2}


def test_what_connections_to_silent_nodes_saw_is_summed_over_them_until_they_answer(site: Site) -> None:
    site.history.saw("cm-2", "n1", Connects(9, 0, 99.0))  # nothing is known of a failover yet
    site.falls("cm-2", "n1")
    site.falls("cm-2", "n2")
    site.write()
    site.history.saw("cm-2", "n1", Connects(3, 0, 99.5))
    site.history.saw("cm-2", "n2", Connects(2, 0, 0.0))
    (one,) = site.history.failovers
    assert (one.unanswered, one.last_connection_s) == (5, WALL_S + 99.5)
    site.now += 3
    site.history.saw("cm-2", "n2", Connects(4, 0, 102.0))
    (one,) = site.history.failovers
    assert (one.unanswered, one.last_connection_s) == (7, WALL_S + 102)
    # A start of the agent forgets what was answered meanwhile, so its sums may be smaller.
    again = Site(site.planner.layouts, [one])
    again.history.saw("cm-2", "n2", Connects(1, 0, 50.0))
    assert again.history.failovers == [one]
    for node in ("n1", "n2"):
        site.answers("cm-2", node)
    site.history.saw("cm-2", "n2", Connects(9, 1, 103.0))
    assert site.history.failovers[0].unanswered == 7


def test_a_backend_added_on_a_silent_node_moves_nothing(site: Site) -> None:
    site.falls("cm-2", "n1")
    site.write()
    site.backends(WEB, "cm-2", "10.2.1.1", "10.2.1.9", "10.2.2.1")
    site.write()
    assert [move.service for move in site.history.failovers[0].moves] == [DB, WEB]


def test_a_cluster_that_names_no_backend_any_more_has_withdrawn_them(site: Site) -> None:
    site.backends(WEB, "cm-2")
    site.now += 0.03
    site.backends(DB, "cm-2", "10.2.1.2", ready=False, serving=False)
    site.write()
    assert site.said() == [
        "cm-2 withdrawn : db cm-2 1.00 -> nobody in 0.010, web cm-1 0.33+cm-2 0.67 -> cm-1 1.00 in 0.040: goes on"
    ]
    assert site.history.failovers[0].detection_s is None
    site.backends(WEB, "cm-2", "10.2.1.1")
    site.write()
    assert site.history.failovers[0].waiting == (DB,)
    site.backends(DB, "cm-2", "10.2.1.2")
    site.write()
    assert site.said()[0].endswith(": 0.06 s")


def test_a_write_that_failed_counts_until_it_was_done(site: Site) -> None:
    site.backends(WEB, "cm-2")
    for key in site.mesh.take_changes():
        site.mesh.report(key, OSError("full"))
        site.mesh.touch(key)
    site.write(0.5)
    assert "cm-1 1.00 in 0.500" in site.said()[0]


def test_this_cluster_has_failovers_too(site: Site) -> None:
    site.backends(WEB, "cm-1")
    site.write()
    assert site.said() == ["cm-1 withdrawn : web cm-1 0.33+cm-2 0.67 -> cm-2 1.00 in 0.010: goes on"]


def test_a_cluster_that_is_no_longer_joined_has_left(site: Site) -> None:
    site.mesh.forget("cluster:cm-2")
    site.write()
    assert [(each.cluster, each.cause, each.moved) for each in site.history.failovers] == [
        ("cm-2", Cause.LEFT, 2)
    ]


def test_backends_that_are_dropped_for_staleness_are_a_failover(site: Site) -> None:
    site.service(WEB, 80, on_stale=OnStale.DROP)
    site.write()
    site.mesh.mark_stale("cluster:cm-2", "out of reach")
    site.mesh.mark_overdue("cluster:cm-2")
    site.write()
    # db keeps them.
    (one,) = site.history.failovers
    assert (one.cluster, one.cause, [move.service for move in one.moves]) == ("cm-2", Cause.STALE, [WEB])
    site.mesh.mark_complete("cluster:cm-2")
    site.write()
    assert site.history.failovers[0].ended_s is not None


def test_traffic_that_moves_by_preference_is_no_failover(site: Site) -> None:
    for change in (
        lambda: site.backends(WEB, "cm-2", "10.2.1.1"),
        lambda: site.service(WEB, 80, "local, any"),
        lambda: site.service(WEB, 80, "remote, any"),
        lambda: site.backends(WEB, "cm-3", "10.3.0.1"),
        lambda: site.service(WEB, 80, is_global=False),
        lambda: site.mesh.apply("manifests", deletes=[(Service, ("manifests", DB))]),
    ):
        change()
        site.write()
        assert site.said() == []


def test_a_failover_ends_with_its_service(site: Site) -> None:
    site.backends(DB, "cm-2")
    site.write()
    site.mesh.apply("manifests", deletes=[(Service, ("manifests", DB))])
    site.write()
    assert site.history.failovers[0].ended_s is not None


def test_what_went_on_at_a_restart_goes_on_and_ends_once(site: Site, made: Layouts) -> None:
    site.falls("cm-2", "n1")
    site.backends(DB, "cm-2")
    site.write()
    past = site.history.failovers
    assert [each.cause for each in past] == [Cause.SILENT, Cause.WITHDRAWN]
    again = Site(made, past)
    again.service(WEB, 80)
    again.service(DB, 5432)
    again.node("cm-2", "n1", "10.2.1.0/24")
    again.backends(WEB, "cm-1", "10.1.0.1")
    again.backends(WEB, "cm-2", "10.2.1.1", "10.2.2.1")
    again.falls("cm-2", "n1")
    again.write()
    assert again.history.failovers == past
    assert (again.history.counts, again.history.uncounted()) == ({}, {})
    again.answers("cm-2", "n1")
    again.backends(DB, "cm-2", "10.2.1.2")
    again.write()
    assert all(each.ended_s for each in again.history.failovers)
    # Only what is new has a number of its own.
    again.backends(DB, "cm-2")
    again.write()
    assert len(again.history.failovers) == 3


def test_only_so_many_are_remembered_and_those_that_are_over_go_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover_history, "FAILOVERS_MAX", 3)
    site.backends(WEB, "cm-1")
    site.write()
    for _ in range(4):
        site.now += 60
        site.backends(DB, "cm-2")
        site.write()
        site.backends(DB, "cm-2", "10.2.1.2")
        site.write()
    assert [each.cluster for each in site.history.failovers] == ["cm-1", "cm-2", "cm-2"]
    assert site.history.counts["cm-2", Cause.WITHDRAWN] == 4

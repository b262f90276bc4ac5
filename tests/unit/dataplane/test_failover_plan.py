"""Who would take over: plans over a mesh of three clusters, seen from node n1 of cm-1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.failover_plan import failover_plans
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import layouts
from meshd.dataplane.socket_lb import Planner
from meshd.kernel.object import BpfObject
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Node,
    Outage,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.failover import parse_ladder
from meshd.model.failover_plan import Loss, Taken, TakenBy
from meshd.state import Mesh

WEB = ServiceName("default", "web")
V4, V6 = (Frontend(parse_address(text), 80, Protocol.TCP) for text in ("10.96.0.1", "fd00:96::1"))


@pytest.fixture(scope="module")
def planner() -> Iterator[Planner]:
    with BpfObject.open() as bpf:
        made = layouts(bpf.btf)
    yield Planner(made, "n1", Held(made, {}), zone="z1", cluster="cm-1")


def source_of(cluster: str) -> str:
    return "manifests" if cluster == "cm-1" else f"cluster:{cluster}"


def part(cluster: str, *backends: Backend) -> BackendSlice:
    return BackendSlice(WEB, "part", source_of(cluster), cluster, backends)


def backend(address: str, **facts: object) -> Backend:
    made = Backend(parse_address(address), (BackendPort("", Protocol.TCP, 8080),))
    return replace(made, **facts)  # type: ignore[arg-type] # fields of all types


def mesh_of(ladder: str, *parts: BackendSlice, **facts: object) -> Mesh:
    mesh = Mesh()
    failover = parse_ladder(ladder) if ladder else ()
    web = Service(WEB, "manifests", (V4,), is_global=True, failover=failover, **facts)  # type: ignore[arg-type]
    mesh.apply("manifests", [web])
    for each in parts:
        mesh.apply(each.source, [each])
    return mesh


HERE = part("cm-1", backend("10.1.0.1", node="n1", zone="z1"), backend("10.1.0.2", node="n2", zone="z2"))
SECOND = part("cm-2", backend("10.2.0.1", zone="z1"), backend("10.2.1.1", zone="z2"))
THIRD = part("cm-3", backend("10.3.0.1"))


def rows(planner: Planner, mesh: Mesh, loss: Loss) -> list[str]:
    """``cm-2 0 -> 50 (0 -> 2)``: share in percent, and backends."""
    (plan,) = failover_plans(planner, mesh, WEB, loss)
    return [
        f"{each.cluster} {each.before.share * 100:.0f} -> {each.after.share * 100:.0f}"
        f" ({each.before.backends} -> {each.after.backends})"
        for each in plan.clusters
    ]


PLANS: list[tuple[str, str, Loss, list[str]]] = [
    ("no ladder, a cluster", "", Loss("cm-2"),
     ["cm-1 40 -> 67 (2 -> 2)", "cm-2 40 -> 0 (2 -> 0)", "cm-3 20 -> 33 (1 -> 1)"]),
    ("the next rung", "cluster:cm-2, cluster:cm-3, any", Loss("cm-2"),
     ["cm-2 100 -> 0 (2 -> 0)", "cm-3 0 -> 100 (0 -> 1)"]),
    ("a cluster that is not in use", "local, any", Loss("cm-2"), ["cm-1 100 -> 100 (2 -> 2)"]),
    ("this cluster", "local, cluster:cm-3 weight 3 + cluster:cm-2 weight 1", Loss("cm-1"),
     ["cm-1 100 -> 0 (2 -> 0)", "cm-2 0 -> 25 (0 -> 2)", "cm-3 0 -> 75 (0 -> 1)"]),
    ("a node of this cluster, half of the rung", "local, cluster:cm-3", Loss("cm-1", node="n2"),
     ["cm-1 100 -> 71 (2 -> 1)", "cm-3 0 -> 29 (0 -> 1)"]),
    ("a node of another cluster, by its networks", "cluster:cm-2, local", Loss("cm-2", node="n2"),
     ["cm-1 0 -> 29 (0 -> 2)", "cm-2 100 -> 71 (2 -> 1)"]),
    ("a zone of another cluster", "cluster:cm-2", Loss("cm-2", zone="z1"), ["cm-2 100 -> 100 (2 -> 1)"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "ladder", "loss", "expected"), PLANS, ids=[row[0] for row in PLANS])
def test_a_plan_says_who_takes_over(
    planner: Planner, rule: str, ladder: str, loss: Loss, expected: list[str]
) -> None:
    mesh = mesh_of(ladder, HERE, SECOND, THIRD)
    mesh.apply("cluster:cm-2", [Node("cm-2", "n2", "cluster:cm-2", pod_cidrs=("10.2.1.0/24",))])
    assert rows(planner, mesh, loss) == expected


@pytest.mark.parametrize(
    "ladder", ["", "local, any", "cluster:cm-2, any", "cluster:cm-2 weight 3 + cluster:cm-3 weight 1, local"]
)
@pytest.mark.parametrize("nodes", [("n1",), ("n2",), ("n1", "n2")])
def test_what_a_plan_says_is_what_happens_when_nodes_do_not_answer(
    planner: Planner, ladder: str, nodes: tuple[str, ...]
) -> None:
    mesh = mesh_of(ladder, HERE, SECOND, THIRD)
    known = [Node("cm-2", f"n{n + 1}", "cluster:cm-2", pod_cidrs=(f"10.2.{n}.0/24",)) for n in range(2)]
    mesh.apply("cluster:cm-2", known)
    loss = Loss("cm-2", node=nodes[0]) if len(nodes) == 1 else Loss("cm-2")
    (planned,) = failover_plans(planner, mesh, WEB, loss)
    mesh.apply("probes", [Outage("cm-2", node, 0.0, "silent") for node in nodes])
    (seen,) = failover_plans(planner, mesh, WEB, loss)
    before = {each.cluster: each.before for each in seen.clusters if each.before.share}
    assert before == {each.cluster: each.after for each in planned.clusters if each.after.share}


def test_a_service_without_another_home_is_left_with_nothing(planner: Planner) -> None:
    (plan,) = failover_plans(planner, mesh_of("local, any", SECOND), WEB, Loss("cm-2"))
    assert (plan.nothing_left, plan.lost) == (True, 2)
    assert plan.clusters == (TakenBy("cm-2", Taken(1.0, 2), Taken()),)


def test_a_constraint_that_leaves_nobody_on_this_node_is_no_loss(planner: Planner) -> None:
    away = part("cm-1", backend("10.1.0.2", node="n2"))
    mesh = mesh_of("", away, internal_traffic_local=True)
    (plan,) = failover_plans(planner, mesh, WEB, Loss("cm-1"))
    assert (plan.nothing_left, plan.clusters) == (False, ())


def test_a_service_without_a_backend_there_is_not_named(planner: Planner) -> None:
    mesh = mesh_of("", HERE)
    assert failover_plans(planner, mesh, WEB, Loss("cm-2")) == []
    assert failover_plans(planner, mesh, WEB, Loss("cm-1", zone="z9")) == []
    assert failover_plans(planner, mesh, ServiceName("default", "none"), Loss("cm-1")) == []


def test_backends_that_do_not_serve_do_not_save_a_service(planner: Planner) -> None:
    ill = part("cm-1", backend("10.1.0.1", ready=False, serving=False))
    (plan,) = failover_plans(planner, mesh_of("", ill, SECOND), WEB, Loss("cm-2"))
    assert plan.nothing_left


def test_headroom_is_what_a_stated_capacity_leaves(planner: Planner) -> None:
    mesh = mesh_of("local, cluster:cm-2 capacity 60, cluster:cm-3 capacity 30", HERE, SECOND, THIRD)
    (plan,) = failover_plans(planner, mesh, WEB, Loss("cm-1"))
    found = {each.cluster: (each.before, each.after) for each in plan.clusters}
    assert {name: (was.headroom, will.headroom) for name, (was, will) in found.items()} == {
        "cm-1": (None, None),
        "cm-2": (pytest.approx(0.6), pytest.approx(0.6 - 2 / 3)),
        "cm-3": (pytest.approx(0.3), pytest.approx(0.3 - 1 / 3)),
    }


def test_half_of_a_clusters_backends_is_half_of_its_capacity(planner: Planner) -> None:
    mesh = mesh_of("cluster:cm-2 capacity 80, any", HERE, SECOND, min_healthy_percent=0)
    (plan,) = failover_plans(planner, mesh, WEB, Loss("cm-2", zone="z1"))
    (_, second) = plan.clusters
    assert second.after.share == pytest.approx(0.4)
    assert second.after.capacity == pytest.approx(0.4)


def test_frontends_that_fare_otherwise_have_a_plan_of_their_own(planner: Planner) -> None:
    six = part("cm-3", backend("10.3.0.1"), backend("fd00:3::1"))
    mesh = mesh_of("", part("cm-2", backend("10.2.0.1"), backend("fd00:2::1")), six)
    web = mesh.service(WEB)
    assert web is not None
    tls = Frontend(V4.address, 443, Protocol.TCP)
    mesh.apply("manifests", [replace(web, frontends=(V4, tls, V6)), HERE])
    plans = failover_plans(planner, mesh, WEB, Loss("cm-2"))
    assert [each.frontends for each in plans] == [(V4, tls), (V6,)]
    assert [len(each.clusters) for each in plans] == [3, 2]

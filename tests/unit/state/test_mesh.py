"""One writer, one revision, one place to wait."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from meshd.errors import RowsFailed
from meshd.model import (
    Backend,
    BackendSlice,
    Identity,
    Namespace,
    Node,
    NodeState,
    Service,
    ServiceName,
    Workload,
    parse_address,
)
from meshd.model.failover import parse_ladder
from meshd.model.workload import IDENTITIES
from meshd.state import Mesh, PlanKey, SourceState

NAME = ServiceName("default", "a")
KEY = PlanKey("service", "default/a")


def service(source: str = "manifests", **facts: object) -> Service:
    return Service(NAME, source, **facts)  # type: ignore[arg-type]


def test_what_is_equal_changes_nothing() -> None:
    mesh = Mesh()
    assert mesh.apply("manifests", [service()]) == 1
    mesh.take_changes()
    assert mesh.apply("manifests", [service()]) == 1
    assert mesh.take_changes() == {}


def test_a_complete_list_removes_what_it_does_not_name_and_only_of_its_source() -> None:
    mesh = Mesh()
    mesh.apply("manifests", [service()])
    mesh.apply("api", [service("api")])
    mesh.replace("manifests", [])
    assert [value.source for value in mesh.services.values()] == ["api"]


def test_a_source_may_not_write_another_ones_objects() -> None:
    with pytest.raises(ValueError, match="manifests may not write objects of api"):
        Mesh().apply("manifests", [service("api")])


def test_the_first_source_in_precedence_is_in_force() -> None:
    mesh = Mesh()
    mesh.apply("api", [service("api")])
    assert mesh.owner(NAME) == "api"
    mesh.apply("manifests", [service()])
    assert mesh.owner(NAME) == "manifests"
    mesh.apply("manifests", deletes=[(Service, ("manifests", NAME))])
    assert mesh.owner(NAME) == "api"


def test_services_and_backends_of_each_source_are_counted() -> None:
    mesh = Mesh()
    backend = Backend(parse_address("10.0.0.1"), ())
    part = BackendSlice(NAME, "s", "manifests", "c", (backend, backend))
    mesh.apply("manifests", [service(), part])
    mesh.apply("api", [service("api")])
    mesh.apply("manifests", [service(close_tcp=True), BackendSlice(NAME, "s", "manifests", "c", (backend,))])
    assert mesh.service_counts == {"manifests": 1, "api": 1}
    assert mesh.backend_counts == {"manifests": 1}
    mesh.replace("manifests", [])
    assert mesh.service_counts == {"manifests": 0, "api": 1}
    assert mesh.backend_counts == {"manifests": 0}


def test_a_pod_is_planned_again_when_it_is_somebody_else() -> None:
    mesh = Mesh()
    key = PlanKey("workload", "default/pod")
    for number in (65540, 65541):
        mesh.apply(IDENTITIES, [Identity("default", "pod", number)])
        assert list(mesh.take_changes()) == [key]
    mesh.apply(IDENTITIES, deletes=[(Identity, (IDENTITIES, "default", "pod"))])
    assert list(mesh.take_changes()) == [key]


# What a node is, and what it is then.
NODE = Node("cm-2", "n1", "cluster:cm-2", (parse_address("192.0.2.1"),), ("10.2.1.0/24",), region="west")
MOVES = {
    "it comes": (None, NODE, True),
    "it goes": (NODE, None, True),
    "into another region": (NODE, replace(NODE, region="east"), True),
    "other pods": (NODE, replace(NODE, pod_cidrs=("10.2.2.0/24",)), True),
    "nothing of it counts any more": (NODE, replace(NODE, state=NodeState.REFUSED), True),
    "another zone": (NODE, replace(NODE, zone="b"), False),
    "without a region": (None, replace(NODE, region=""), False),
}


@pytest.mark.parametrize("case", MOVES)
@pytest.mark.parametrize("ladder", ["zone, region, any", "zone, any"])
def test_a_service_that_asks_for_regions_is_planned_again_when_a_node_is_elsewhere(
    case: str, ladder: str
) -> None:
    before, after, expected = MOVES[case]
    mesh = Mesh()
    mesh.apply("manifests", [service(failover=parse_ladder(ladder))])
    mesh.apply(NODE.source, [before] if before else [])
    mesh.take_changes()
    mesh.apply(NODE.source, [after] if after else [], [] if after else [(Node, NODE.key)])
    assert (KEY in mesh.take_changes()) is (expected and "region" in ladder)


def test_a_service_that_asks_for_regions_no_more_is_left_alone() -> None:
    mesh = Mesh()
    mesh.apply("manifests", [service(failover=parse_ladder("region, any"))])
    mesh.apply("manifests", [service()])
    mesh.take_changes()
    mesh.apply(NODE.source, [NODE])
    assert KEY not in mesh.take_changes()


def test_a_namespace_has_its_services_and_workloads_planned_again() -> None:
    mesh = Mesh()
    mesh.apply("manifests", [service(), Workload("default", "pod", "manifests", "/x")])
    mesh.take_changes()
    mesh.apply("manifests", [Namespace("default", "manifests", global_services=True)])
    assert set(mesh.take_changes()) == {KEY, PlanKey("workload", "default/pod")}


async def test_settled_waits_for_the_callers_keys_only() -> None:
    mesh = Mesh()
    revision = mesh.apply(
        "manifests", [service(), BackendSlice(ServiceName("default", "b"), "s", "manifests", "c", ())]
    )
    waiting = asyncio.ensure_future(mesh.settled(revision, [KEY]))
    await asyncio.sleep(0)
    mesh.take_changes()
    assert not waiting.done()
    mesh.report(KEY, None)
    await waiting
    assert mesh.pending == 1


async def test_settled_is_not_told_of_an_earlier_plan_of_the_same_key() -> None:
    mesh = Mesh()
    mesh.apply("manifests", [service()])
    mesh.take_changes()
    revision = mesh.apply("manifests", [service(close_tcp=True)])
    mesh.report(KEY, None)
    waiting = asyncio.ensure_future(mesh.settled(revision, [KEY]))
    await asyncio.sleep(0)
    assert not waiting.done()
    mesh.take_changes()
    mesh.report(KEY, None)
    await waiting


async def test_settled_for_an_old_revision_waits_although_the_key_changed_again() -> None:
    mesh = Mesh()
    revision = mesh.apply("manifests", [service()])
    mesh.apply("manifests", [service(close_tcp=True)])
    waiting = asyncio.ensure_future(mesh.settled(revision, [KEY]))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_a_failed_row_is_told_to_whoever_waits_for_it_and_to_nobody_else() -> None:
    mesh = Mesh()
    revision = mesh.apply("manifests", [service()])
    mesh.take_changes()
    mesh.report(KEY, OSError("no room"))
    with pytest.raises(RowsFailed, match="service default/a: no room"):
        await mesh.settled(revision, [KEY])
    await mesh.settled(revision, [PlanKey("service", "default/b")])
    mesh.touch(KEY)
    mesh.take_changes()
    mesh.report(KEY, None)
    await mesh.settled(revision, [KEY])


def test_the_lag_is_that_of_the_oldest_change_that_still_waits() -> None:
    mesh = Mesh()
    mesh.apply("manifests", [service()])
    first = mesh.waiting_since_s
    assert first is not None
    mesh.take_changes()
    mesh.apply("manifests", [Service(ServiceName("default", "b"), "manifests")])
    assert mesh.waiting_since_s == first
    mesh.report(KEY, None)
    since = mesh.waiting_since_s
    assert since is not None
    assert since > first
    mesh.take_changes()
    mesh.report(PlanKey("service", "default/b"), None)
    assert mesh.waiting_since_s is None


def test_a_source_is_complete_after_its_first_list_and_stays_so_when_it_goes_stale() -> None:
    mesh = Mesh()
    mesh.listing("cluster:a")
    assert (mesh.is_complete("cluster:a"), mesh.is_unheard("cluster:a")) == (False, True)
    mesh.mark_stale("cluster:a", "unreachable")
    assert not mesh.is_complete("cluster:a")
    mesh.replace("cluster:a", [])
    mesh.mark_stale("cluster:a", "unreachable")
    assert mesh.is_complete("cluster:a")
    assert mesh.sources["cluster:a"].state is SourceState.STALE


def test_a_restored_source_is_heard_but_not_complete() -> None:
    mesh = Mesh()
    mesh.restore("manifests", [service()])
    assert (mesh.is_complete("manifests"), mesh.is_unheard("manifests")) == (False, False)
    assert mesh.owner(NAME) == "manifests"


def test_a_forgotten_source_leaves_nothing_and_counts_as_having_listed_nothing() -> None:
    mesh = Mesh()
    mesh.listing("manifests")
    mesh.apply("manifests", [service()])
    mesh.forget("manifests")
    assert len(mesh.services) == 0
    assert mesh.is_complete("manifests")
    assert "manifests" not in mesh.sources

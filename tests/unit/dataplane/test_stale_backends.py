"""What becomes of backends that nobody vouches for: new connections as the service asks, established ones never."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Layouts, layouts
from meshd.dataplane.socket_lb import Planner
from meshd.dataplane.staleness import Staleness
from meshd.kernel.object import BpfObject
from meshd.model import (
    Affinity,
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    OnStale,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.state import Mesh

WEB = ServiceName("galaxy", "web")
REMOTE = "cluster:cm-2"
HTTP = BackendPort("", Protocol.TCP, 8080)


@pytest.fixture(scope="module")
def rows() -> Iterator[Layouts]:
    with BpfObject.open() as bpf:
        yield layouts(bpf.btf)


def part(source: str, address: str, *, overdue: bool = False) -> BackendSlice:
    backends = (Backend(parse_address(address), (HTTP,)),)
    return BackendSlice(WEB, "a", source, source.removeprefix("cluster:"), backends, overdue=overdue)


def mesh_of(on_stale: OnStale | None, *parts: BackendSlice) -> Mesh:
    mesh = Mesh()
    frontends = (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),)
    web = Service(WEB, "manifests", frontends, is_global=True, affinity=Affinity.REMOTE, on_stale=on_stale)
    mesh.replace("manifests", [web, *(each for each in parts if each.source == "manifests")])
    mesh.replace(REMOTE, [each for each in parts if each.source == REMOTE])
    return mesh


def used(rows: Layouts, mesh: Mesh, default: OnStale = OnStale.KEEP) -> tuple[set[int], set[int]]:
    """The last bytes of the backends that new connections are given, and of those that keep theirs."""
    plan = Planner(rows, "n1", Held(rows, {}), staleness=Staleness(default)).service(mesh, WEB)
    slots = {rows.slot.decode(value).backend.address[-1] for value in plan.rows["slots"].values()}
    (served,) = plan.served.values()
    return slots, {rows.endpoint.decode(each).address[-1] for each in served.backends}


LOCAL, FRESH, OVERDUE = (
    part("manifests", "10.1.0.1"),
    part(REMOTE, "10.2.0.2"),
    part(REMOTE, "10.2.0.2", overdue=True),
)
CASES: list[tuple[str, OnStale | None, OnStale, tuple[BackendSlice, ...], set[int]]] = [
    ("kept where nobody says otherwise", None, OnStale.KEEP, (LOCAL, OVERDUE), {2}),
    ("a last resort", OnStale.DEPRIORITISE, OnStale.KEEP, (LOCAL, OVERDUE), {1}),
    ("a last resort that is needed", OnStale.DEPRIORITISE, OnStale.KEEP, (OVERDUE,), {2}),
    ("dropped", OnStale.DROP, OnStale.KEEP, (OVERDUE,), set()),
    ("dropped by default", None, OnStale.DROP, (OVERDUE,), set()),
    ("the service's word before the default", OnStale.KEEP, OnStale.DROP, (OVERDUE,), {2}),
    (
        "not before it is overdue",
        OnStale.DROP,
        OnStale.KEEP,
        (replace(FRESH, stale_since_s=1.0, held=True),),
        {2},
    ),
]


@pytest.mark.parametrize(
    ("case", "said", "default", "parts", "expected"), CASES, ids=[row[0] for row in CASES]
)
def test_an_overdue_slice_is(
    rows: Layouts,
    case: str,
    said: OnStale | None,
    default: OnStale,
    parts: tuple[BackendSlice, ...],
    expected: set[int],
) -> None:
    slots, staying = used(rows, mesh_of(said, *parts), default)
    assert slots == expected
    assert staying == {each.backends[0].address[-1] for each in parts}


def test_a_cluster_out_of_reach_for_too_long_is_overdue_until_it_is_heard(rows: Layouts) -> None:
    mesh = mesh_of(OnStale.DROP, LOCAL, FRESH)
    mesh.mark_stale(REMOTE, "no heartbeat")
    assert used(rows, mesh) == ({2}, {1, 2})
    mesh.mark_overdue(REMOTE)
    assert used(rows, mesh) == ({1}, {1, 2})
    mesh.mark_stale(REMOTE, "still none")
    assert used(rows, mesh) == ({1}, {1, 2})
    mesh.mark_complete(REMOTE)
    assert used(rows, mesh) == ({2}, {1, 2})


def test_services_are_planned_again_when_a_source_is_overdue() -> None:
    mesh = mesh_of(OnStale.DROP, LOCAL, FRESH)
    mesh.mark_stale(REMOTE, "no heartbeat")
    mesh.take_changes()
    mesh.mark_overdue(REMOTE)
    assert str(WEB) in {key.name for key in mesh.take_changes()}

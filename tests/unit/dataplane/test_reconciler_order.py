"""Who is planned first: a container waits for its workload, half made."""

from __future__ import annotations

from meshd.dataplane.delta import Delta
from meshd.dataplane.reconciler import Reconciler
from meshd.dataplane.retire import Retired
from meshd.dataplane.rows import Plan
from meshd.dataplane.writer import Writer
from meshd.model import Service, ServiceName, Workload
from meshd.state import Mesh, PlanKey


def nothing_to_wait_for() -> None:
    """No program reads maps that there are none of."""


def test_a_workload_is_planned_before_ten_thousand_services_that_came_with_it_or_before() -> None:
    mesh, planned = Mesh(), list[PlanKey]()

    def plan(key: PlanKey) -> Plan:
        planned.append(key)
        return Plan({})

    delta = Delta({}, {}, frozenset())
    retired = Retired({}, frozenset(), delta, nothing_to_wait_for)
    reconciler = Reconciler(mesh, delta, Writer({}, (), delta, retired), plan, lambda _: None)
    mesh.apply(
        "manifests", [Service(ServiceName("default", f"a{n}"), "manifests", ()) for n in range(10_000)]
    )
    reconciler.take()
    reconciler.turn()
    mesh.apply(
        "manifests", [Service(ServiceName("default", f"b{n}"), "manifests", ()) for n in range(10_000)]
    )
    mesh.apply("cni", [Workload("default", "pod", "cni", "/run/netns/x")])
    planned.clear()
    reconciler.take()
    reconciler.turn()
    assert planned[0] == PlanKey("workload", "default/pod")

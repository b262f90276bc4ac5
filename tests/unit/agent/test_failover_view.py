"""What the agent says of stated capacities that are passed."""

from __future__ import annotations

import pytest

from meshd.agent.failover_view import FailoverView
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import layouts
from meshd.dataplane.socket_lb import Planner
from meshd.kernel.object import BpfObject
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.model.failover import parse_ladder
from meshd.state import Mesh

WEB = ServiceName("default", "web")


def view(ladder: str, *clusters: str) -> FailoverView:
    """Of a service with one backend in each of ``clusters``; we are in cm-1."""
    with BpfObject.open() as bpf:
        made = layouts(bpf.btf)
    mesh = Mesh()
    frontends = (Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP),)
    mesh.apply(
        "manifests", [Service(WEB, "manifests", frontends, is_global=True, failover=parse_ladder(ladder))]
    )
    for number, cluster in enumerate(clusters):
        source = "manifests" if cluster == "cm-1" else f"cluster:{cluster}"
        backend = Backend(parse_address(f"10.{number}.0.1"), (BackendPort("", Protocol.TCP, 80),))
        mesh.apply(source, [BackendSlice(WEB, "part", source, cluster, (backend,))])
    return FailoverView(mesh, Planner(made, "n1", Held(made, {}), cluster="cm-1"))


LADDER = "local, cluster:cm-2 capacity 40, cluster:cm-3"


@pytest.mark.parametrize(
    ("clusters", "problems", "beyond"),
    [
        (("cm-1", "cm-2", "cm-3"), [], []),
        (
            ("cm-2", "cm-3"),
            ["service default/web: cluster:cm-2 is to take 100% of the traffic and can take 40%: "
             "the rest goes to the next rungs"],
            [0.6],
        ),
        (
            ("cm-2",),
            ["service default/web: cluster:cm-2 is to take 100% of the traffic and can take 40%: "
             "nobody else is left, so it has 100%"],
            [0.6],
        ),
        (("cm-3",), [], []),
    ],
)  # fmt: skip
def test_a_capacity_that_is_passed_is_a_problem_and_a_figure(
    clusters: tuple[str, ...], problems: list[str], beyond: list[float]
) -> None:
    found = view(LADDER, *clusters)
    assert found.problems() == problems
    (figure,) = found.figures()
    assert figure.name == "failover_beyond_capacity_ratio"
    assert [sample.value for sample in figure.samples] == [pytest.approx(value) for value in beyond]
    assert all(
        sample.labels == {"service": "default/web", "target": "cluster:cm-2"} for sample in figure.samples
    )

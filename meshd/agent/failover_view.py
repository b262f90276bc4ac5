"""Failover in the agent: what a loss would mean, and whose stated capacity is passed now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from meshd.dataplane.choice import shares
from meshd.dataplane.failover_plan import failover_plans
from meshd.dataplane.ladder import Part
from meshd.dataplane.socket_lb import Planner
from meshd.model import Service, ServiceName
from meshd.model.failover_plan import FailoverPlan, Loss
from meshd.servers.introspection import Figure, Sample
from meshd.state import Mesh


class Passed(NamedTuple):
    """A target that would have more of a service's traffic than it can take, as was said. All but the names: 0 to 1.

    ``share``: what it has; above ``capacity`` where nobody else takes the rest.
    """

    service: ServiceName
    target: str
    share: Fraction
    capacity: Fraction
    wanted: Fraction


class FailoverView:
    """``planner``: the one whose choices the kernel has."""

    def __init__(self, mesh: Mesh, planner: Planner) -> None:
        self._mesh = mesh
        self._planner = planner

    def plans(self, name: ServiceName, loss: Loss) -> Sequence[FailoverPlan]:
        """What ``loss`` would do to one service."""
        return failover_plans(self._planner, self._mesh, name, loss)

    def figures(self) -> Sequence[Figure]:
        """How much goes beyond stated capacities."""
        samples = tuple(
            Sample(float(one.wanted - one.capacity), {"service": str(one.service), "target": one.target})
            for one in self._passed()
        )
        return [
            Figure(
                "failover_beyond_capacity_ratio",
                "What a target of a ladder would have of its service's traffic beyond its stated capacity.",
                "gauge",
                samples,
            )
        ]

    def problems(self) -> list[str]:
        """Of each target whose capacity is passed one sentence."""
        return [
            f"service {one.service}: {one.target} is to take {float(one.wanted):.0%} of the traffic and can take "
            f"{float(one.capacity):.0%}: {_consequence(one)}"
            for one in self._passed()
        ]

    def _passed(self) -> Iterator[Passed]:
        place = self._planner.place(self._mesh)
        for service in self._limited():
            worst: dict[str, Passed] = {}
            for able in self._planner.able(self._mesh, service):
                for part in shares(service, able.candidates, place, external=able.external):
                    found = _passed_by(service, part)
                    if found and (found.target not in worst or found.wanted > worst[found.target].wanted):
                        worst[found.target] = found
            yield from worst.values()

    def _limited(self) -> Iterator[Service]:
        """Services in force that state a capacity."""
        for service in self._mesh.services.values():
            is_limited = any(target.capacity_percent for rung in service.failover for target in rung)
            if is_limited and self._mesh.owner(service.name) == service.source:
                yield service


def _passed_by(service: Service, part: Part) -> Passed | None:
    if part.target is None or part.capacity is None:
        return None
    wanted = max(part.capacity + part.refused if part.refused else part.share, part.share)
    if wanted <= part.capacity:
        return None
    return Passed(service.name, part.target.place, part.share, part.capacity, wanted)


def _consequence(one: Passed) -> str:
    if one.share > one.capacity:
        return f"nobody else is left, so it has {float(one.share):.0%}"
    return "the rest goes to the next rungs"

"""Failover drills in the agent: done on this node for its cluster, and begun and ended for who asks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing

import structlog

from clustermesh.errors import ClustermeshError
from meshd.agent.cluster_agreement import expected
from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.ladder import cluster_of
from meshd.errors import (
    ClusterNotTold,
    InvalidObject,
    KernelError,
    MeshError,
    NoClusterStore,
    UnknownObject,
)
from meshd.model import ServiceName
from meshd.model.cluster import ETCD
from meshd.model.drill import DRILL_MAX_S, Drill, DrillReport, DrillWord
from meshd.sources.cluster_drill import ClusterDrill, Order, Said
from meshd.state import Mesh, PlanKey

log = structlog.get_logger(__name__)


class DrillView:
    """``cluster``: what hears of drills; None: no etcd is configured, so there are none."""

    def __init__(self, config: Config, mesh: Mesh, dataplane: Dataplane) -> None:
        self._mesh = mesh
        self._dataplane = dataplane
        self._drills = dataplane.drills
        self.cluster: ClusterDrill | None = None
        if config.clustermesh.etcd is not None:
            self.cluster = ClusterDrill(config.cluster_name, config.node_name, self)

    # What the cluster's drill asks for (meshd/sources/cluster_drill.py)

    async def begin(self, drill: Drill) -> Mapping[str, float]:
        """The kernel holds it; cluster -> share that is planned.

        Raises:
            UnknownObject: there is no such service here; RowsFailed: its rows were not written.
        """
        if self._mesh.service(drill.service) is None:
            raise UnknownObject(f"service {drill.service}")
        self._drills.begin(drill)
        try:
            await self._planned_anew(drill.service)
        except MeshError:
            self._drills.end()
            self._mesh.touch(PlanKey("service", str(drill.service)))
            raise
        return self._drills.planned()

    async def end(self) -> Mapping[str, int]:
        """The normal choice is in force again; cluster -> connections that the drill gave it."""
        drill = self._drills.current
        self._drills.end()
        if drill is not None:
            self._mesh.touch(PlanKey("service", str(drill.service)))
        try:
            choices = await asyncio.to_thread(lambda: list(self._dataplane.drill_choices()))
        except KernelError as error:
            log.warning("what the drill gave cannot be read", reason=str(error))
            return {}
        return self._drills.given(choices)

    async def _planned_anew(self, name: ServiceName) -> None:
        key = PlanKey("service", str(name))
        self._mesh.touch(key)
        await self._mesh.settled(self._mesh.revision, [key])

    # What servers ask for

    async def start(
        self, name: ServiceName, lose: str, for_s: float, patience_s: float | None
    ) -> DrillReport:
        """Begins a drill on all nodes of the cluster, and waits for their word.

        Raises:
            UnknownObject, InvalidObject, DrillGoesOn: nothing was changed; NoClusterStore: no etcd is configured;
            ClusterNotTold: it did not take it.
        """
        cluster = self._store()
        self._check(name, lose, for_s)
        order = Order(secrets.token_hex(8), name.namespace, name.name, lose, time.time() + for_s, for_s)
        try:
            await cluster.start(order)
        except ClustermeshError as error:
            raise ClusterNotTold(str(error)) from error
        try:
            return await self._heard(cluster, order.number, order.until_s, lambda _: True, patience_s)
        except asyncio.CancelledError:
            # Who asked is gone, and knows no number to end it by.
            with contextlib.suppress(ClustermeshError, MeshError):
                await cluster.stop(order.number)
            raise

    async def stop(self, number: str, patience_s: float | None) -> DrillReport:
        """Ends it on all nodes, if it is not over, and waits for what they counted.

        Raises:
            NoClusterStore: no etcd is configured; ClusterNotTold: it did not take it, and the drill ends in its time.
        """
        cluster = self._store()
        try:
            await cluster.stop(number)
        except ClustermeshError as error:
            raise ClusterNotTold(str(error)) from error
        return await self._heard(cluster, number, time.time(), lambda word: word.over, patience_s)

    def _store(self) -> ClusterDrill:
        if self.cluster is None:
            raise NoClusterStore("failover drill")
        return self.cluster

    def _check(self, name: ServiceName, lose: str, for_s: float) -> None:
        service = self._mesh.service(name)
        if service is None:
            raise UnknownObject(f"service {name}")
        if not 1 <= for_s <= DRILL_MAX_S:
            raise InvalidObject("drill", "for", f"{for_s:g} s is not between 1 and {DRILL_MAX_S} s")
        planner = self._dataplane.services
        place = planner.place(self._mesh)
        clusters = {
            cluster_of(each, place) for able in planner.able(self._mesh, service) for each in able.candidates
        }
        if lose not in clusters:
            has = f"it has some in {', '.join(sorted(clusters))}" if clusters else "it has none anywhere"
            raise InvalidObject(f"service {name}", "lose", f"no backend of it is in cluster {lose!r}; {has}")

    async def _heard(
        self,
        cluster: ClusterDrill,
        number: str,
        until_s: float,
        counts: Callable[[Said], bool],
        patience_s: float | None,
    ) -> DrillReport:
        """Who has given the word that is waited for, when all have, or the time is up."""
        found: dict[str, Said] = {}
        wanted = frozenset({cluster.node})
        try:
            async with asyncio.timeout(patience_s):
                while not self._mesh.is_complete(ETCD):
                    # Who is expected is not known yet.
                    await self._mesh.moved()
                wanted = expected(self._mesh, cluster.cluster, cluster.node)
                async with aclosing(cluster.words()) as words:
                    async for said in words:
                        found = {
                            name: one for name, one in said.items() if one.number == number and counts(one)
                        }
                        if wanted <= found.keys():
                            break
        except (TimeoutError, ClustermeshError, ClusterNotTold):
            pass  # who is missing says it
        given = tuple(
            DrillWord(name, one.reason, one.planned, one.over, one.given)
            for name, one in sorted(found.items())
        )
        return DrillReport(number, until_s, given, tuple(sorted(wanted - found.keys())))

"""The agent: which parts there are, in which order they start, and who is given whom.

The order of a start: look at the kernel; take over what is pinned; put in force what journals and the kernel say; swap the
programs of the hooks in place; then listen and read the sources. Nothing is deleted before a source has spoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from meshd.agent import run_lock
from meshd.agent.introspect import DataplaneView, build
from meshd.config import Config
from meshd.dataplane.dataplane import NEEDS, Dataplane, open_object
from meshd.kernel import cgroup, features
from meshd.kernel.features import Feature
from meshd.servers.control.changes import Changes
from meshd.servers.control.server import ControlServer
from meshd.servers.introspection import Introspection
from meshd.sources.manifests import SOURCE as MANIFESTS
from meshd.sources.manifests import Manifests
from meshd.state import Mesh
from meshd.state.snapshots import Snapshots

log = structlog.get_logger(__name__)


class Agent:
    """Everything one node runs. `run` ends by cancellation; hooks and maps stay as they are."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._started_s = time.time()
        self._mesh = Mesh()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError: this machine or configuration cannot be used; KernelError, VerifierError: the kernel refused
            something. Whatever was attached before goes on.
        """
        config = self._config
        with run_lock.held(config.run_dir):
            features.require(config.bpffs)
            found = features.probe()
            subtree = config.cgroup or cgroup.find_mount()
            tune_collector()
            dataplane = self._open(found)
            with contextlib.closing(dataplane):
                changes, snapshots = self._restore(dataplane)
                dataplane.attach(subtree)
                await self._serve(dataplane, found, changes, snapshots)

    def _open(self, found: Sequence[Feature]) -> Dataplane:
        missing = {feature.name for feature in found if not feature.present}
        left_out = [program for program, need in NEEDS.items() if need in missing]
        for feature in found:
            if not feature.present:
                log.info(
                    "kernel feature missing", feature=feature.name, cost=feature.cost, reason=feature.reason
                )
        opened = open_object(self._config, left_out)
        reused = {name: len(rows) for name, rows in opened.observed.items() if rows}
        log.info(
            "BPF object loaded", programs=len(opened.loaded.programs), left_out=left_out, rows_found=reused
        )
        return Dataplane(self._config, self._mesh, opened)

    def _restore(self, dataplane: Dataplane) -> tuple[Changes, Snapshots]:
        """What was in force before this start, as far as it is configured still."""
        journals = self._config.state_dir / "journal"
        snapshots = Snapshots(self._mesh, journals)
        if self._config.manifests is not None:
            self._mesh.listing(MANIFESTS)
        restored = snapshots.restore(only=self._configured_sources(journals, dataplane))
        changes = Changes(self._mesh, journals)
        restored["api"] = changes.load()
        log.info("restored from journals", **{name: count for name, count in restored.items() if count})
        return changes, snapshots

    def _configured_sources(self, journals: Path, dataplane: Dataplane) -> list[str]:
        return [MANIFESTS] if self._config.manifests is not None else []

    async def _serve(
        self, dataplane: Dataplane, found: Sequence[Feature], changes: Changes, snapshots: Snapshots
    ) -> None:
        view = DataplaneView(self._config, dataplane, found)
        introspection = Introspection(
            build=build(self._started_s),
            features=view.features,
            programs=view.programs,
            maps=view.maps,
            dump=view.dump,
            figures=view.figures,
            peers=lambda: (),
            reconcile=view.reconcile,
            backends_in_use=view.backends_in_use,
        )
        control = ControlServer(self._config, self._mesh, changes, introspection)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(dataplane.run())
            tasks.create_task(snapshots.run())
            tasks.create_task(control.run())
            if self._config.manifests is not None:
                manifests = Manifests(
                    self._mesh, self._config.manifests, self._config.cluster_name, self._config.node_name
                )
                tasks.create_task(manifests.run())
            tasks.create_task(self._freeze_when_settled())

    async def _freeze_when_settled(self) -> None:
        """The mesh is long-lived: once it stands, the collector need not walk it again and again."""
        while self._mesh.pending or not all(self._mesh.is_complete(name) for name in self._mesh.sources):
            await self._mesh.moved()
        gc.collect()
        gc.freeze()


def tune_collector() -> None:
    """Fewer collections: a full one of a large mesh takes longer than a removal may."""
    gc.set_threshold(50_000, 20, 50)

"""The demo from beginning to end: a lab, the phases, the report, and nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from meshd.lab import spec as lab_spec
from meshd.lab.demo import watched
from meshd.lab.demo.checks import PodCounts
from meshd.lab.demo.phases import PHASES, SERVICE
from meshd.lab.demo.picture import Picture
from meshd.lab.demo.stage import Phase
from meshd.lab.demo.watched import Watched
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from meshd.lab.processes import gone, tell
from meshd.lab.record import held
from meshd.lab.session import taken_down_on_failure
from meshd.lab.up import up

AfterPhase = Callable[[Lab, int], Awaitable[None]]


async def demo(
    places: Places, out: Path, phases: Sequence[Phase[Lab]] = PHASES, after_phase: AfterPhase | None = None
) -> int:
    """Makes a lab at ``places``, goes through ``phases`` and takes it down; 0 if all went as it must, else 1.

    ``out`` gets report.json and timeline.svg. ``after_phase`` is awaited after each phase with its number (from 1).
    """
    lab = Lab(places, lab_spec.DEFAULT)
    clusters = [cluster.name for cluster in lab.clusters]
    picture = Picture(sys.stdout, clusters)

    async def after(number: int) -> None:
        if after_phase is not None:
            await after_phase(lab, number)

    with held(places):
        async with taken_down_on_failure(lab, picture.say):
            picture.say(f"lab {places.id}")
            await up(lab, picture.say)
            lab.keep_as("demo")
            watching = Watched(LabClients(lab), picture)
            happened = await watching.go_through(lab, phases, after)
            result = watching.conclude(happened, out)
        picture.close()
        lab.take_down()
    return watched.tell(result, clusters, out)


class LabClients:
    """Clients and backends of ``lab`` (watched.Place)."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._clients = [pod for pod in lab.record.pods.values() if pod.command[0] == "x-wing"]

    @property
    def cluster_names(self) -> Sequence[str]:
        return [cluster.name for cluster in self._lab.clusters]

    def client_logs(self) -> Mapping[str, Path]:
        places = self._lab.places
        return {pod.id: places.pod(pod.cluster, pod.name) / "requests.log" for pod in self._clients}

    async def end_clients(self) -> None:
        for pod in self._clients:
            tell(self._lab.pod_cgroup(pod), signal.SIGTERM)
        await asyncio.gather(*(gone(self._lab.pod_cgroup(pod)) for pod in self._clients))

    def counts(self) -> Mapping[str, PodCounts]:
        return watched.counted((self._lab.places.run / "pods").glob(f"*/{SERVICE}-*/counts"))

"""The demo from beginning to end: a lab, the phases, the report, and nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from meshd.lab import spec as lab_spec
from meshd.lab.demo import report, timeline
from meshd.lab.demo.checks import PodCounts
from meshd.lab.demo.phases import PHASES, SERVICE, Phase, Stage
from meshd.lab.demo.picture import Picture
from meshd.lab.demo.report import Happened, Report
from meshd.lab.demo.requests import Log, Request
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from meshd.lab.processes import gone, tell
from meshd.lab.record import held
from meshd.lab.session import taken_down_on_failure
from meshd.lab.up import up
from meshd.lab.workloads.rebel_base import COUNTS

READ_S = 0.1
FIRST_REQUEST_S = 10.0

AfterPhase = Callable[[Lab, int], Awaitable[None]]


async def demo(
    places: Places, out: Path, phases: Sequence[Phase] = PHASES, after_phase: AfterPhase | None = None
) -> int:
    """Makes a lab at ``places``, goes through ``phases`` and takes it down; 0 if all went as it must, else 1.

    ``out`` gets report.json and timeline.svg. ``after_phase`` is awaited after each phase with its number (from 1).
    """
    lab = Lab(places, lab_spec.DEFAULT)
    picture = Picture(sys.stdout, [cluster.name for cluster in lab.clusters])
    with held(places):
        async with taken_down_on_failure(lab, picture.say):
            picture.say(f"lab {places.id}")
            await up(lab, picture.say)
            lab.keep_as("demo")
            watched = Watched(lab, picture)
            happened = await watched.go_through(phases, after_phase)
            result = watched.conclude(happened, out)
        picture.close()
        lab.take_down()
    print()
    for line in report.lines(result, [cluster.name for cluster in lab.clusters]):
        print(line)
    print(f"report: {out / 'report.json'}, picture: {out / 'timeline.svg'}", flush=True)
    return 0 if result.ok else 1


class Watched:
    """The clients' requests of a lab, read while the phases run."""

    def __init__(self, lab: Lab, picture: Picture) -> None:
        self._lab = lab
        self._picture = picture
        self._clients = [pod for pod in lab.record.pods.values() if pod.command[0] == "x-wing"]
        self._logs = [
            Log(pod.id, lab.places.pod(pod.cluster, pod.name) / "requests.log") for pod in self._clients
        ]
        self._requests: list[Request] = []

    async def go_through(self, phases: Sequence[Phase], after_phase: AfterPhase | None) -> list[Happened]:
        """Does ``phases`` in order; ends the clients, so that every request has its outcome."""
        happened = []
        # The clients already call: the first phase begins with their first request.
        begun_ns = await self._first_request_ns()
        reading = asyncio.create_task(self._keep_reading())
        for number, phase in enumerate(phases, 1):
            self._picture.phase(f"phase {number} of {len(phases)}: {phase.name}")
            stage = Stage(self._lab, self._picture.say)
            await phase.act(stage)
            ended_ns = time.monotonic_ns()
            happened.append(Happened(phase, begun_ns, ended_ns, stage.moments, tuple(stage.remarks)))
            begun_ns = ended_ns
            if after_phase is not None:
                await after_phase(self._lab, number)
        await self._end_clients()
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        self._read()
        # No request belongs nowhere: another client's first may have begun before the first that was read, and what
        # was under way at the last look at the clock is the last phase's.
        happened[0] = replace(happened[0], begun_ns=min(request.begun_ns for request in self._requests))
        happened[-1] = replace(happened[-1], ended_ns=time.monotonic_ns())
        return happened

    def conclude(self, happened: Sequence[Happened], out: Path) -> Report:
        """Judges what was seen and writes report and picture to ``out``."""
        clusters = [cluster.name for cluster in self._lab.clusters]
        counted = counts(self._lab.places)
        result = report.make(happened, self._requests, [pod.id for pod in self._clients], clusters, counted)
        report.write(result, out / "report.json")
        (out / "timeline.svg").write_text(timeline.draw(happened, self._requests, clusters))
        return result

    async def _first_request_ns(self) -> int:
        async with asyncio.timeout(FIRST_REQUEST_S):
            while not (first := self._read()):  # noqa: ASYNC110 - the clients are other processes
                await asyncio.sleep(READ_S)
        return min(request.begun_ns for request in first)

    async def _keep_reading(self) -> None:
        while True:
            self._picture.add(self._read())
            await asyncio.sleep(READ_S)

    def _read(self) -> list[Request]:
        new = [request for log in self._logs for request in log.new()]
        self._requests += new
        return new

    async def _end_clients(self) -> None:
        for pod in self._clients:
            tell(self._lab.pod_cgroup(pod), signal.SIGTERM)
        await asyncio.gather(*(gone(self._lab.pod_cgroup(pod)) for pod in self._clients))


def counts(places: Places) -> dict[str, PodCounts]:
    """What every backend of the lab counted, dead ones too, by CLUSTER/POD."""
    found = {}
    for path in (places.run / "pods").glob(f"*/{SERVICE}-*/counts"):
        with suppress(struct.error):
            found[f"{path.parts[-3]}/{path.parts[-2]}"] = PodCounts(*COUNTS.unpack(path.read_bytes()))
    return found

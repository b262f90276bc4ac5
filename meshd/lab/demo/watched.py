"""The clients' requests while phases go on, and what is made of them in the end."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from meshd.lab.demo import report, timeline
from meshd.lab.demo.checks import PodCounts
from meshd.lab.demo.picture import Picture
from meshd.lab.demo.report import Happened, Report
from meshd.lab.demo.requests import Log, Request
from meshd.lab.demo.stage import Phase, Stage
from meshd.lab.record import LabError
from meshd.lab.workloads.rebel_base import COUNTS

READ_S = 0.1
FIRST_REQUEST_S = 60.0


class Place(Protocol):
    """Where clients call backends: a lab, or clusters of Kubernetes."""

    @property
    def cluster_names(self) -> Sequence[str]:
        """In their order."""

    def client_logs(self) -> Mapping[str, Path]:
        """Of each client, by CLUSTER/POD, the file that it writes its requests to."""

    async def end_clients(self) -> None:
        """Ends all clients, and returns when each has written down what became of its last request."""

    def counts(self) -> Mapping[str, PodCounts]:
        """What every backend counted, those that are gone too, by CLUSTER/POD."""


Ground = TypeVar("Ground")
AfterPhase = Callable[[int], Awaitable[None]]


class Watched:
    """The requests of a place's clients, read while its phases run."""

    def __init__(self, place: Place, picture: Picture) -> None:
        self._place = place
        self._picture = picture
        self._logs = [Log(client, path) for client, path in place.client_logs().items()]
        self._requests: list[Request] = []

    async def go_through(
        self, ground: Ground, phases: Sequence[Phase[Ground]], after_phase: AfterPhase | None = None
    ) -> list[Happened]:
        """Does ``phases`` to ``ground`` in order; ends the clients, so that every request has its outcome.

        ``after_phase`` is awaited after each phase with its number (from 1).
        """
        happened = []
        # The clients already call: the first phase begins with the first request of the last of them.
        await self._all_call()
        begun_ns = time.monotonic_ns()
        reading = asyncio.create_task(self._keep_reading())
        for number, phase in enumerate(phases, 1):
            self._picture.phase(f"phase {number} of {len(phases)}: {phase.name}")
            stage = Stage(ground, self._picture.say)
            await phase.act(stage)
            ended_ns = time.monotonic_ns()
            happened.append(Happened(phase, begun_ns, ended_ns, stage.moments, tuple(stage.remarks)))
            begun_ns = ended_ns
            if after_phase is not None:
                await after_phase(number)
        await self._place.end_clients()
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        self._read()
        # No request belongs nowhere: those of the clients that were first, and what was under way at the last look at the
        # clock, are the first phase's and the last one's.
        happened[0] = replace(happened[0], begun_ns=min(request.begun_ns for request in self._requests))
        happened[-1] = replace(happened[-1], ended_ns=time.monotonic_ns())
        return happened

    def conclude(self, happened: Sequence[Happened], out: Path) -> Report:
        """Judges what was seen and writes report, picture and the list of lost requests to ``out``."""
        clusters = self._place.cluster_names
        clients = [log.client for log in self._logs]
        result = report.make(happened, self._requests, clients, clusters, self._place.counts())
        report.write(result, out / "report.json")
        (out / "timeline.svg").write_text(timeline.draw(happened, self._requests, clusters))
        (out / "lost.txt").write_text("\n".join(report.lost_lines(happened, self._requests)) + "\n")
        return result

    async def _all_call(self) -> None:
        deadline = time.monotonic() + FIRST_REQUEST_S
        while silent := {log.client for log in self._logs} - {request.client for request in self._requests}:
            if time.monotonic() > deadline:
                raise LabError(f"no request of {', '.join(sorted(silent))} after {FIRST_REQUEST_S:g} s")
            await asyncio.sleep(READ_S)
            self._read()

    async def _keep_reading(self) -> None:
        while True:
            self._picture.add(self._read())
            await asyncio.sleep(READ_S)

    def _read(self) -> list[Request]:
        new = [request for log in self._logs for request in log.new()]
        self._requests += new
        return new


def counted(files: Iterable[Path]) -> dict[str, PodCounts]:
    """What backends counted in ``files``, each at CLUSTER/POD/NAME, by CLUSTER/POD."""
    found = {}
    for path in files:
        # One that is just being made is empty.
        with suppress(struct.error):
            found[f"{path.parts[-3]}/{path.parts[-2]}"] = PodCounts(*COUNTS.unpack(path.read_bytes()))
    return found


def tell(result: Report, clusters: Sequence[str], out: Path) -> int:
    """Prints the closing table and where the report is; the exit status: 0 if all went as it must, else 1."""
    print()
    for line in report.lines(result, clusters):
        print(line)
    files = (
        f"report: {out / 'report.json'}, picture: {out / 'timeline.svg'}, what was lost: {out / 'lost.txt'}"
    )
    print(files, flush=True)
    return 0 if result.ok else 1

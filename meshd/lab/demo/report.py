"""The report of a demo: from phases and requests to report.json and the closing table. Pure, but for writing the file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from meshd.commit import commit
from meshd.lab.demo.checks import PodCounts, Seen, counts_agree
from meshd.lab.demo.requests import Request, answers, decided, losses
from meshd.lab.demo.stage import Phase
from meshd.lab.status import table


class PhaseReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One phase. ``switch_ms``: p99 over all callers from the change to the last answer of the old kind; null: no switch.

    ``in_flight`` when a link was cut, and sent ``before_switch`` within the time that is allowed: lost, and not in ``lost``.
    These and ``problems`` stand in the file only where there are any.
    """

    name: str
    seconds: float
    requests: int
    lost: int
    answers: dict[str, int]
    switch_ms: float | None
    in_flight: int = 0
    before_switch: int = 0
    problems: list[str] = []


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """``lost`` leaves out the phase in which requests may be lost.

    ``problems``, in the file only where there are any, is what was wrong besides the phases'.
    """

    ok: bool
    requests: int
    lost: int
    phases: list[PhaseReport]
    kernel: str
    commit: str
    problems: list[str] = []


@dataclass(frozen=True, slots=True)
class Happened:
    """A phase that was gone through, and when (monotonic nanoseconds)."""

    # Any: what was acted on matters to nobody any more.
    phase: Phase[Any]
    begun_ns: int
    ended_ns: int
    moments: Mapping[str, int]
    remarks: tuple[str, ...] = ()


def make(
    happened: Sequence[Happened],
    requests: Sequence[Request],
    clients: Sequence[str],
    clusters: Sequence[str],
    counted: Mapping[str, PodCounts],
) -> Report:
    """The report on ``requests`` (all of them), what the backends ``counted`` (by CLUSTER/POD) and what was done."""
    phases = [_phase(each, requests, clients, clusters) for each in happened]
    problems = counts_agree(requests, counted)
    lost = sum(p.lost for p, each in zip(phases, happened, strict=True) if not each.phase.may_lose)
    ok = not (lost or problems or any(phase.problems for phase in phases))
    return Report(ok, len(requests), lost, phases, os.uname().release, commit(), problems)


def _phase(
    each: Happened, requests: Sequence[Request], clients: Sequence[str], clusters: Sequence[str]
) -> PhaseReport:
    own = decided(requests, each.begun_ns, each.ended_ns)
    seen = Seen(each.begun_ns, each.ended_ns, each.moments, own, clients, clusters)
    excused = each.phase.excuses(seen)
    excusable = {*excused.in_flight, *excused.before_switch}
    lost = [request for request in losses(own) if request not in excusable]
    problems = [*each.remarks, *each.phase.check(seen)]
    if lost and not each.phase.may_lose:
        first = lost[0]
        problems.append(
            f"{len(lost)} requests were lost, first one of {first.client} over IPv{first.family}: {first.lost}"
        )
    got = answers(own)
    return PhaseReport(
        each.phase.name,
        round((each.ended_ns - each.begun_ns) / 1e9, 2),
        len(own),
        len(lost),
        {cluster: got[cluster] for cluster in clusters},
        each.phase.switch(seen),
        len(excused.in_flight),
        len(excused.before_switch),
        problems,
    )


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def lost_lines(happened: Sequence[Happened], requests: Sequence[Request]) -> list[str]:
    """Every lost request, with the second of the demo in which it began and the number of the phase whose it is."""
    begun_ns = happened[0].begun_ns
    rows = [["SECOND", "PHASE", "CLIENT", "FAMILY", "AFTER", "REASON"]]
    for number, each in enumerate(happened, 1):
        for one in losses(decided(requests, each.begun_ns, each.ended_ns)):
            second, after = (one.begun_ns - begun_ns) / 1e9, one.latency_us / 1000
            family = f"IPv{one.family}"
            rows.append([f"{second:.3f}", str(number), one.client, family, f"{after:.1f} ms", one.lost])
    return table(rows)


def lines(report: Report, clusters: Sequence[str]) -> list[str]:
    """The closing table, and below it what was wrong."""
    heading = [
        "PHASE",
        "SECONDS",
        "REQUESTS",
        *(c.upper() for c in clusters),
        "LOST",
        "AT CUT",
        "SWITCH p99",
        "SHOWN",
    ]
    rows = [heading]
    for number, phase in enumerate(report.phases, 1):
        switch = "-" if phase.switch_ms is None else f"{phase.switch_ms:g} ms"
        got = [str(phase.answers[cluster]) for cluster in clusters]
        shown = "no" if phase.problems else "yes"
        rows.append(
            [
                f"{number} {phase.name}",
                f"{phase.seconds:.1f}",
                str(phase.requests),
                *got,
                str(phase.lost),
                str(phase.in_flight + phase.before_switch or "-"),
                switch,
                shown,
            ]
        )
    verdict = f"{report.requests} requests, {report.lost} lost" + ("" if report.ok else ": not as it must be")
    problems = [f"  phase {n}: {text}" for n, phase in enumerate(report.phases, 1) for text in phase.problems]
    return [*table(rows), "", verdict, *problems, *(f"  {text}" for text in report.problems)]

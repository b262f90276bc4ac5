"""What a series of faults showed: one JSON for machines, one table for people."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meshd.commit import commit
from meshd.lab.demo.requests import percentile
from meshd.lab.faults.run import Judged
from meshd.lab.status import table


class Times(msgspec.Struct, frozen=True, rename="camel"):
    """A distribution of times in milliseconds; ``count`` 0: there were none, and the others are 0."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    most_ms: float


class TrialReport(msgspec.Struct, frozen=True, rename="camel"):
    """One fault, or several that overlapped. ``seconds``: from the injection until all was as before."""

    faults: tuple[str, ...]
    ok: bool
    seconds: float
    requests: int
    lost: int
    excused: dict[str, int]
    wrong_failovers: list[str]
    problems: list[str]
    detection: Times
    switch: Times


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """``rate``: requests/s that clients made in fact. ``excused``: lost requests that nobody could have saved, by why."""

    ok: bool
    seed: int
    kernel: str
    commit: str
    rate: float
    faults: int
    requests: int
    lost: int
    excused: dict[str, int]
    wrong_failovers: int
    detection: Times
    switch: Times
    trials: list[TrialReport]
    problems: list[str]


def make(seed: int, judged: Sequence[Judged], problems: Sequence[str]) -> Report:
    """The report on ``judged``; ``problems``: what is wrong with the series as a whole."""
    trials = [_trial(each) for each in judged]
    requests = sum(each.requests for each in trials)
    wrong = sum(len(each.wrong_failovers) for each in trials)
    seconds = (judged[-1].trial.ended_ns - judged[0].trial.begun_ns) / 1e9 if judged else 0.0
    return Report(
        ok=bool(trials) and all(each.ok for each in trials) and not problems,
        seed=seed,
        kernel=os.uname().release,
        commit=commit(),
        rate=round(requests / seconds, 1) if seconds else 0.0,
        faults=sum(len(each.faults) for each in trials),
        requests=requests,
        lost=sum(each.lost for each in trials),
        excused=dict(sum((Counter(each.excused) for each in trials), Counter())),
        wrong_failovers=wrong,
        detection=times([ms for each in judged for ms in each.verdict.detection_ms]),
        switch=times([ms for each in judged for ms in each.verdict.switch_ms]),
        trials=trials,
        problems=list(problems),
    )


def times(values: Sequence[float]) -> Times:
    """The distribution of ``values``, in milliseconds."""
    marks = [percentile(values, each) for each in (0.5, 0.9, 0.99, 1.0)]
    p50, p90, p99, most = [round(mark or 0.0, 1) for mark in marks]
    return Times(len(values), p50, p90, p99, most)


def _trial(each: Judged) -> TrialReport:
    verdict = each.verdict
    return TrialReport(
        each.faults,
        verdict.ok,
        round((each.trial.settled_ns - each.trial.injected_ns) / 1e9, 2),
        verdict.requests,
        len(verdict.lost),
        verdict.excused,
        verdict.wrong,
        verdict.problems,
        times(verdict.detection_ms),
        times(verdict.switch_ms),
    )


def write(report: Report, judged: Sequence[Judged], out: Path) -> None:
    """faults.json, and lost.txt with every lost request."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "faults.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    (out / "lost.txt").write_text("\n".join(lost_lines(judged)) + "\n")


def lost_lines(judged: Sequence[Judged]) -> list[str]:
    """Every request that was lost and should have been answered; when it began after the fault, and after its healing."""
    rows = [["TRIAL", "CLIENT", "FAMILY", "BEGUN AFTER FAULT", "AND AFTER HEALING", "FOR", "REASON"]]
    for each in judged:
        for lost in sorted(each.verdict.lost):
            since = (lost.begun_ns - each.trial.injected_ns, lost.begun_ns - each.trial.healing_ns)
            after = [f"{ns / 1e6:.0f} ms" for ns in (*since, lost.latency_us * 1000)]
            rows.append([" + ".join(each.faults), lost.client, f"IPv{lost.family}", *after, lost.lost])
    return table(rows)


def lines(report: Report) -> list[str]:
    """The table, and what it comes to."""
    head = [
        "FAULT",
        "SECONDS",
        "REQUESTS",
        "LOST",
        "EXCUSED",
        "WRONG",
        "DETECTED p50/most",
        "SWITCHED p50/most",
        "SHOWN",
    ]
    rows = [head, *map(_row, report.trials)]
    found = [f"{name} {count}" for name, count in sorted(report.excused.items())]
    return [
        *table(rows),
        "",
        f"{report.faults} faults, seed {report.seed}: {report.requests} requests ({report.rate:g}/s), {report.lost} lost,"
        f" {report.wrong_failovers} wrong failovers; nobody could have saved: {', '.join(found) or 'none'}",
        f"detection: {_said(report.detection)}",
        f"switch: {_said(report.switch)}",
        *report.problems,
    ]


def _row(trial: TrialReport) -> list[str]:
    return [
        " + ".join(trial.faults),
        f"{trial.seconds:.1f}",
        str(trial.requests),
        str(trial.lost),
        str(sum(trial.excused.values())),
        str(len(trial.wrong_failovers)),
        _short(trial.detection),
        _short(trial.switch),
        "yes" if trial.ok else "no",
    ]


def _short(said: Times) -> str:
    return f"{said.p50_ms:.0f}/{said.most_ms:.0f} ms" if said.count else "-"


def _said(said: Times) -> str:
    if not said.count:
        return "none"
    marks = (
        f"p50 {said.p50_ms:g} ms, p90 {said.p90_ms:g} ms, p99 {said.p99_ms:g} ms, at most {said.most_ms:g} ms"
    )
    return f"{said.count} seen, {marks}"

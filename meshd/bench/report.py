"""What every bench hands over: rows of figures and targets, as JSON for machines and as a table for people."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from meshd.bench.statistics import Estimate, difference, median, met, ratio, reached
from meshd.commit import commit


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. The ratio is to the baseline of the same case; None where there is none or too few rounds bound it."""

    path: str
    case: str
    metric: str
    unit: str
    value: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """``name`` says what is measured and in which unit; ``measured`` may be ``bound`` ("at most", "at least") ``limit``."""

    name: str
    limit: float
    measured: float
    met: bool
    bound: str = "at most"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run; the names of the fields are the keys of the JSON."""

    bench: str
    commit: str
    kernel: str
    cpus: int
    rounds: int
    baseline: str
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]


def report(bench: str, rounds: int, baseline: str, rows: Sequence[Row], targets: Sequence[Target]) -> Report:
    """A report of ``bench`` on this machine and commit."""
    cpus = len(os.sched_getaffinity(0))
    return Report(bench, commit(), platform.release(), cpus, rounds, baseline, tuple(rows), tuple(targets))


def row(
    path: str, case: str, metric: str, unit: str, *, values: Sequence[float], baseline: Sequence[float] = ()
) -> Row:
    """The median of ``values``, one a round, and of their ratios to ``baseline``, if it is given."""
    measured = ratio(values, baseline) if baseline else None
    return estimated(path, case, metric, unit, value=median(values), to_baseline=measured)


def estimated(
    path: str, case: str, metric: str, unit: str, *, value: Estimate, to_baseline: Estimate | None = None
) -> Row:
    """A row of figures that are known already."""
    if to_baseline is None:
        return Row(path, case, metric, unit, _short(value.value))
    low, high = (_short(end) if math.isfinite(end) else None for end in (to_baseline.low, to_baseline.high))
    return Row(path, case, metric, unit, _short(value.value), _short(to_baseline.value), low, high)


def target(name: str, limit: float, measured: Estimate) -> Target:
    """``measured`` against "at most ``limit``", by the rule of `statistics.met`."""
    return Target(name, limit, _short(measured.value), met(measured, limit))


def target_of_least(name: str, limit: float, measured: Estimate) -> Target:
    """``measured`` against "at least ``limit``", by the rule of `statistics.reached`."""
    return Target(name, limit, _short(measured.value), reached(measured, limit), "at least")


def to_json(finished: Report) -> str:
    """The report as JSON, keys in the order of its fields."""
    return json.dumps(asdict(finished), indent=2, allow_nan=False)


def to_table(finished: Report) -> str:
    """The report for people; a missed target is the one thing in capital letters."""
    return "\n".join([*_head(finished), "", *_rows(finished.rows), "", *_targets(finished.targets)])


def _short(value: float) -> float:
    """Four significant digits: more is noise, in a file as on a screen."""
    return float(f"{value:.4g}") if abs(value) < 10_000 else float(round(value))


def _head(finished: Report) -> Iterator[str]:
    yield f"{finished.bench}: commit {finished.commit or 'not known'}, kernel {finished.kernel}, {finished.cpus} CPUs"
    yield f"baseline: {finished.baseline}"
    yield f"medians of {finished.rounds} rounds, ratios with their 95 % interval; none: the interval holds 1;"
    yield "a target is met if its interval reaches it, missed only if all of the interval is beyond it"


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    cells: list[tuple[str, ...]] = [
        ("path", "case", "metric", "value", "unit", "ratio", "95 % interval", "difference")
    ]
    cells += [_cells(each) for each in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        texts = [
            cell.rjust(width) if column in (3, 5) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(texts).rstrip()


def _cells(each: Row) -> tuple[str, ...]:
    value = f"{each.value:,.0f}" if abs(each.value) >= 1000 else f"{each.value:g}"
    facts = (each.path, each.case, each.metric, value, each.unit)
    if each.ratio is None:
        return (*facts, "", "", "")
    if each.ratio_low is None or each.ratio_high is None:
        return (*facts, f"{each.ratio:.3g}", "not bounded", "")
    interval = f"{each.ratio_low:.3g} .. {each.ratio_high:.3g}"
    said = difference(Estimate(each.ratio, each.ratio_low, each.ratio_high))
    return (*facts, f"{each.ratio:.3g}", interval, said)


def _targets(targets: Sequence[Target]) -> Iterator[str]:
    for each in targets:
        verdict = "met   " if each.met else "MISSED"
        yield f"{verdict}  {each.name}: {each.measured:g} ({each.bound} {each.limit:g})"

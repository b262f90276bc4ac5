"""From rounds of `meshctl bench short-circuit` to figures and targets: every path beside plain routing and a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshd.bench.path_results import ANY, ONE, ROUTING, TWO, Results
from meshd.bench.report import Row, Target, row, target, target_of_least
from meshd.bench.statistics import ratio

SELECTED, NOT_SELECTED, WITHOUT = "short circuit", "meshd, not selected", "meshd, feature off"
UNIX, FLOOR, ONE_ENVOY, TWO_ENVOYS = "Unix socket", "floor", "one Envoy", "two Envoys"
# By how many bytes may wait for a reader; the default is what SELECTED has.
LIMITS = {"256 KiB": 256 << 10, "1 MiB": 1 << 20, "16 MiB": 16 << 20}
PLACEMENTS = ONE, TWO, ANY

# Placement -> metric -> the most that the short circuit's p50 may be to plain routing's, and to a Unix socket's.
AT_MOST = {
    ONE: {"64 B p50": (0.56, 1.05), "16 KB p50": (0.44, 0.95)},
    TWO: {"64 B p50": (0.90, 1.03), "16 KB p50": (0.95, 1.03)},
}
BULK, BULK_AT_LEAST, BULK_AT_ANY_LIMIT = "bulk", 2.2, 0.95
CONNECTIONS, SMALL = "connections", "64 B p50"
ENVOYS_AT_LEAST = 6.0


def limited(limit: str) -> str:
    """The path of a short circuit in which other than the default may wait."""
    return f"{SELECTED}, {limit}"


def rows(found: Sequence[Results], units: dict[str, str]) -> Iterator[Row]:
    """Every figure of every path with its ratio to plain routing, and of NOT_SELECTED to a meshd without the feature."""
    paths = {each.path: each for each in found}
    for placement in PLACEMENTS:
        for metric, unit in units.items():
            for each in found:
                values = _values(paths, each.path, placement, metric)
                if values:
                    baseline = [] if each.path == ROUTING else _values(paths, ROUTING, placement, metric)
                    yield row(each.path, placement, metric, unit, values=values, baseline=baseline)
            yield from _beside(paths, placement, metric, unit)


def _beside(paths: dict[str, Results], placement: str, metric: str, unit: str) -> Iterator[Row]:
    """The ratios that targets ask for besides."""
    for path, baseline in ((SELECTED, UNIX), (NOT_SELECTED, WITHOUT), (TWO_ENVOYS, SELECTED)):
        values, to = (_values(paths, each, placement, metric) for each in (path, baseline))
        if values and to:
            yield row(f"{path} to {baseline}", placement, metric, unit, values=values, baseline=to)


def targets(found: Sequence[Results]) -> Iterator[Target]:
    """Those that this machine can say something of."""
    paths = {each.path: each for each in found}
    yield from _messages(paths)
    for path, least in ((SELECTED, BULK_AT_LEAST), *((limited(each), BULK_AT_ANY_LIMIT) for each in LIMITS)):
        for placement in PLACEMENTS:
            yield from _of_least(paths, least, placement, BULK, path, ROUTING)
    yield from _of_least(paths, ENVOYS_AT_LEAST, ONE, SMALL, TWO_ENVOYS, SELECTED)
    for placement in (ONE, TWO):
        yield from _of_least(paths, 1.0, placement, CONNECTIONS, SELECTED, ROUTING)
        yield from _of_most(paths, 1.0, placement, SMALL, NOT_SELECTED, WITHOUT)
        yield from _of_least(paths, 1.0, placement, CONNECTIONS, NOT_SELECTED, WITHOUT)


def _messages(paths: dict[str, Results]) -> Iterator[Target]:
    for placement, metrics in AT_MOST.items():
        for metric, limits in metrics.items():
            for limit, baseline in zip(limits, (ROUTING, UNIX), strict=True):
                yield from _of_most(paths, limit, placement, metric, SELECTED, baseline)


def _of_most(
    paths: dict[str, Results], limit: float, placement: str, metric: str, path: str, baseline: str
) -> Iterator[Target]:
    values, to = (_values(paths, each, placement, metric) for each in (path, baseline))
    if values and to:
        yield target(_name(placement, metric, path, baseline), limit, ratio(values, to))


def _of_least(
    paths: dict[str, Results], least: float, placement: str, metric: str, path: str, baseline: str
) -> Iterator[Target]:
    values, to = (_values(paths, each, placement, metric) for each in (path, baseline))
    if values and to:
        yield target_of_least(_name(placement, metric, path, baseline), least, ratio(values, to))


def _name(placement: str, metric: str, path: str, baseline: str) -> str:
    return f"{path}, {placement}: {metric}, ratio to {baseline}"


def _values(paths: dict[str, Results], path: str, placement: str, metric: str) -> list[float]:
    found = paths.get(path)
    return found.rounds.get(placement, {}).get(metric, []) if found is not None else []

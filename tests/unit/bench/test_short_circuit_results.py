"""Which figures of the short circuit's bench are compared with which, when its targets are met, and its picture."""

from __future__ import annotations

import pytest

from meshd.bench.path_results import ANY, LOOPBACK, ONE, ROUTING, TWO, Results
from meshd.bench.report import Report, report
from meshd.bench.short_circuit_handed import Sent
from meshd.bench.short_circuit_picture import COLOURS, drawn
from meshd.bench.short_circuit_results import (
    FLOOR,
    LIMITS,
    NOT_SELECTED,
    SELECTED,
    TWO_ENVOYS,
    UNIX,
    WITHOUT,
    limited,
    rows,
    targets,
)

UNITS = {
    "wake-up p50": "us",
    "64 B p50": "us",
    "64 B p99": "us",
    "16 KB p50": "us",
    "connections": "1/s",
    "bulk": "Gbit/s",
}


def _measured(path: str, metrics: dict[str, float], placement: str = ONE) -> Results:
    """Six rounds with the same values."""
    made = Results(path, "")
    for _ in range(6):
        for metric, value in metrics.items():
            made.add(placement, metric, value)
    return made


def _report(found: list[Results]) -> Report:
    return report("short-circuit", 6, ROUTING, list(rows(found, UNITS)), list(targets(found)))


@pytest.mark.parametrize("metric", ["64 B p50", "64 B p99"])
def test_every_path_is_compared_with_plain_routing_and_some_with_others_besides(metric: str) -> None:
    found = [
        _measured(FLOOR, {"wake-up p50": 4}),
        _measured(ROUTING, {metric: 20}),
        _measured(UNIX, {metric: 12}),
        _measured(WITHOUT, {metric: 16}),
        _measured(NOT_SELECTED, {metric: 18}),
        _measured(SELECTED, {metric: 9}),
        _measured(TWO_ENVOYS, {metric: 63}),
    ]
    assert {row.path: row.ratio for row in rows(found, UNITS)} == {
        FLOOR: None,
        ROUTING: None,
        UNIX: 0.6,
        WITHOUT: 0.8,
        NOT_SELECTED: 0.9,
        SELECTED: 0.45,
        TWO_ENVOYS: 3.15,
        f"{SELECTED} to {UNIX}": 0.75,
        f"{NOT_SELECTED} to {WITHOUT}": 1.125,
        f"{TWO_ENVOYS} to {SELECTED}": 7.0,
    }


@pytest.mark.parametrize(
    ("placement", "metric", "path", "baseline", "ratio", "met"),
    [
        (ONE, "64 B p50", SELECTED, ROUTING, 0.56, True),
        (ONE, "64 B p50", SELECTED, ROUTING, 0.57, False),
        (ONE, "64 B p50", SELECTED, UNIX, 1.05, True),
        (ONE, "64 B p50", SELECTED, UNIX, 1.06, False),
        (ONE, "16 KB p50", SELECTED, ROUTING, 0.45, False),
        (ONE, "16 KB p50", SELECTED, UNIX, 0.96, False),
        (TWO, "64 B p50", SELECTED, ROUTING, 0.9, True),
        (TWO, "16 KB p50", SELECTED, UNIX, 1.04, False),
        (ANY, "bulk", SELECTED, ROUTING, 2.1, False),
        (ANY, "bulk", SELECTED, ROUTING, 2.2, True),
        (TWO, "bulk", limited("256 KiB"), ROUTING, 0.94, False),
        (TWO, "bulk", limited("16 MiB"), ROUTING, 0.95, True),
        (ONE, "64 B p50", TWO_ENVOYS, SELECTED, 5.9, False),
        (TWO, "connections", SELECTED, ROUTING, 0.99, False),
        (ONE, "64 B p50", NOT_SELECTED, WITHOUT, 1.01, False),
        (ONE, "connections", NOT_SELECTED, WITHOUT, 0.99, False),
    ],
)
def test_a_target_is_met_up_to_its_limit(
    placement: str, metric: str, path: str, baseline: str, ratio: float, met: bool
) -> None:
    found = [_measured(baseline, {metric: 100}, placement), _measured(path, {metric: 100 * ratio}, placement)]
    asked = {each.name: each.met for each in targets(found)}
    assert asked == {f"{path}, {placement}: {metric}, ratio to {baseline}": met}


def test_what_was_left_out_has_no_target() -> None:
    found = [_measured(ROUTING, {"64 B p50": 20}), _measured(SELECTED, {"64 B p50": 9})]
    assert [each.name for each in targets(found)] == [f"{SELECTED}, {ONE}: 64 B p50, ratio to {ROUTING}"]


@pytest.mark.parametrize(("handed", "passed", "percent"), [(0, 0, 0), (0, 5, 0), (3, 1, 75), (4, 0, 100)])
def test_the_share_that_was_handed_over_is_of_all_that_was_sent(
    handed: int, passed: int, percent: float
) -> None:
    before = Sent(10, 20)
    assert before.plus(Sent(handed, passed)).since(before).percent == percent


def test_a_picture_has_a_line_for_each_path_and_a_panel_for_each_placement() -> None:
    both = [
        _measured(FLOOR, {"wake-up p50": 4}),
        _measured(ROUTING, {"64 B p50": 20, "16 KB p50": 30, "connections": 9000}),
        _measured(SELECTED, {"64 B p50": 10, "16 KB p50": 12, "bulk": 30}),
    ]
    for each in both:
        each.rounds[TWO] = each.rounds[ONE]
    picture = drawn(_report(both))
    assert [picture.count(f">{each}</text>") for each in (ONE, TWO, ANY, ROUTING, SELECTED, LOOPBACK)] == [
        1,
        1,
        0,
        1,
        1,
        0,
    ]
    assert picture.count("<polyline ") == 6
    # A point for each size; the floor has none.
    assert picture.count("<circle ") == 8


def test_what_is_slower_is_drawn_above() -> None:
    picture = drawn(_report([_measured(ROUTING, {"64 B p50": 20}), _measured(SELECTED, {"64 B p50": 10})]))
    heights = {
        path: float(line.partition('cy="')[2].partition('"')[0])
        for path in (ROUTING, SELECTED)
        for line in picture.splitlines()
        if line.startswith("<circle ") and COLOURS[path] in line
    }
    assert heights[ROUTING] < heights[SELECTED]


def test_every_limit_has_a_path_of_its_own() -> None:
    assert len({limited(each) for each in LIMITS} | {SELECTED}) == len(LIMITS) + 1

"""Which figures of the path bench are compared with which, and when its targets are met."""

from __future__ import annotations

import pytest

from meshd.bench.path_results import (
    ACROSS,
    AT_LEAST,
    MESHD,
    MESHD_VXLAN,
    MESSAGES_AT_MOST,
    ONE,
    ROUTING,
    SAME,
    TWO,
    Results,
    rows,
    targets,
)

UNITS = {"wake-up p50": "us", "64 B p50": "us", "64 B p99": "us", "connections": "1/s", "bulk": "Gbit/s"}


def _measured(path: str, span: str, metrics: dict[str, float], placement: str = ONE) -> Results:
    """Six rounds with the same values."""
    made = Results(path, span)
    for _ in range(6):
        for metric, value in metrics.items():
            made.add(placement, metric, value)
    return made


def test_a_path_is_compared_with_plain_routing_of_its_own_span() -> None:
    found = [
        _measured(ROUTING, SAME, {"64 B p50": 10}),
        _measured(ROUTING, ACROSS, {"64 B p50": 20}),
        _measured(MESHD, SAME, {"64 B p50": 9}),
        _measured(MESHD, ACROSS, {"64 B p50": 22}),
    ]
    ratios = {(row.path, row.case): row.ratio for row in rows(found, UNITS)}
    assert ratios == {
        (ROUTING, "same node, one CPU"): None,
        (ROUTING, "across nodes, one CPU"): None,
        (MESHD, "same node, one CPU"): 0.9,
        (MESHD, "across nodes, one CPU"): 1.1,
    }


def test_the_floor_is_a_figure_without_a_ratio() -> None:
    found = [_measured("floor", "", {"wake-up p50": 5}), _measured(ROUTING, SAME, {"64 B p50": 10})]
    assert [(row.path, row.case, row.value, row.ratio) for row in rows(found, UNITS)] == [
        ("floor", "one CPU", 5, None),
        (ROUTING, "same node, one CPU", 10, None),
    ]


@pytest.mark.parametrize(
    ("path", "span", "placement", "metrics", "met"),
    [
        (MESHD, SAME, ONE, {"64 B p50": 9.3, "bulk": 10, "connections": 10}, [True, True, True]),
        (MESHD, SAME, ONE, {"64 B p50": 9.5, "bulk": 9.9, "connections": 9.9}, [False, False, False]),
        (MESHD, SAME, TWO, {"64 B p50": 10.2, "bulk": 10, "connections": 10}, [True, True, True]),
        (MESHD, ACROSS, ONE, {"64 B p50": 9.9, "connections": 9.7}, [False, True]),
        (MESHD, ACROSS, TWO, {"64 B p50": 10.2, "connections": 9.6}, [True, False]),
        (MESHD_VXLAN, ACROSS, ONE, {"64 B p50": 11.2}, [True]),
        (MESHD_VXLAN, ACROSS, TWO, {"64 B p50": 11.3}, [False]),
    ],
)
def test_targets_are_ratios_of_p50_and_of_what_is_to_be_large(
    path: str, span: str, placement: str, metrics: dict[str, float], met: list[bool]
) -> None:
    baseline = _measured(ROUTING, span, dict.fromkeys(metrics, 10.0), placement)
    found = [baseline, _measured(path, span, metrics, placement)]
    assert [each.met for each in targets(found)] == met


def test_a_p99_has_no_target() -> None:
    baseline, path = (
        _measured(name, ACROSS, {"64 B p99": 10, "connections": 10}) for name in (ROUTING, MESHD)
    )
    assert [each.name for each in targets([baseline, path])] == [
        "meshd, across nodes, one CPU: connections, ratio"
    ]


def test_every_target_is_of_a_path_through_meshd() -> None:
    assert {path for path, _ in (*MESSAGES_AT_MOST, *AT_LEAST)} == {MESHD, MESHD_VXLAN}

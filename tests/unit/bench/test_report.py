from __future__ import annotations

import json
import math

import pytest

from meshd.bench.report import Row, Target, estimated, report, row, target, target_of_least, to_json, to_table
from meshd.bench.statistics import Estimate

FASTER = [8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
TEN = [10.0] * 6
CONNECT = row("meshd", "1 service", "connect p50", "us", values=FASTER, baseline=TEN)


def test_json_has_the_keys_that_every_bench_gives_in_their_order() -> None:
    finished = report("service-lb", 6, "no service", [CONNECT], [])
    found = json.loads(to_json(finished))
    assert list(found) == ["bench", "commit", "kernel", "cpus", "rounds", "baseline", "rows", "targets"]
    assert found["rows"][0] == {
        "path": "meshd",
        "case": "1 service",
        "metric": "connect p50",
        "unit": "us",
        "value": 10.5,
        "ratio": 1.05,
        "ratio_low": 0.8,
        "ratio_high": 1.3,
    }


def test_targets_in_json_say_what_was_measured_and_whether_that_is_enough() -> None:
    finished = report(
        "service-lb", 6, "no service", [], [target("connect p50", 1.08, Estimate(1.2, 1.1, 1.3))]
    )
    found = json.loads(to_json(finished))["targets"]
    assert found == [
        {"name": "connect p50", "limit": 1.08, "measured": 1.2, "met": False, "bound": "at most"}
    ]


def test_a_ratio_that_nothing_bounds_is_null_in_json_and_said_in_the_table() -> None:
    unbounded = estimated(
        "meshd",
        "all",
        "settled",
        "s",
        value=Estimate(1, 1, 1),
        to_baseline=Estimate(0.5, -math.inf, math.inf),
    )
    finished = report("service-lb", 1, "nftables", [unbounded], [])
    found = json.loads(to_json(finished))["rows"][0]
    assert [found["ratio"], found["ratio_low"], found["ratio_high"]] == [0.5, None, None]
    assert "not bounded" in to_table(finished)


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        (Estimate(1.2, 1.1, 1.3), "MISSED  connect p50: 1.2 (at most 1.08)"),
        (Estimate(1.2, 1.08, 1.3), "met     connect p50: 1.2 (at most 1.08)"),
    ],
)
def test_the_table_says_plainly_whether_a_target_is_missed(measured: Estimate, line: str) -> None:
    assert line in to_table(
        report("service-lb", 6, "no service", [], [target("connect p50", 1.08, measured)])
    )


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        (Estimate(0.9, 0.85, 0.95), "MISSED  bulk: 0.9 (at least 1)"),
        (Estimate(0.9, 0.85, 1.0), "met     bulk: 0.9 (at least 1)"),
    ],
)
def test_a_target_of_least_is_missed_from_below(measured: Estimate, line: str) -> None:
    assert line in to_table(report("path", 6, "veth", [], [target_of_least("bulk", 1.0, measured)]))


def test_the_table_calls_a_difference_inside_the_interval_none() -> None:
    table = to_table(report("service-lb", 6, "no service", [CONNECT], []))
    assert table.splitlines()[6].split()[-1] == "none"


def test_rows_and_targets_without_ratio_are_plain_values() -> None:
    assert Row("meshd", "idle", "rss", "MiB", 61.04) == row("meshd", "idle", "rss", "MiB", values=[61.0371])
    assert Target("rss", 100, 61.04, True) == target("rss", 100, Estimate(61.0371, 61.0371, 61.0371))

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.bench.statistics import ROUNDS_MIN, Estimate, difference, median, met, quantile, ratio

values = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("count", "ranks"),
    # David and Nagaraja, and any table of the sign test: ranks of the 95 % interval of a median.
    [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (20, (6, 15)), (30, (10, 21)), (100, (40, 61))],
)
def test_interval_of_a_median_has_the_ranks_of_the_sign_test(count: int, ranks: tuple[int, int]) -> None:
    measured = median([float(rank) for rank in range(1, count + 1)])
    assert ranks == (measured.low, measured.high)


def test_fewer_rounds_than_the_least_bound_nothing() -> None:
    measured = median([1.0] * (ROUNDS_MIN - 1))
    assert (-math.inf, math.inf) == (measured.low, measured.high)


def test_a_p99_without_enough_values_has_no_upper_bound() -> None:
    measured = quantile([float(value) for value in range(1, 201)], 0.99)
    assert (198.0, 195.0, math.inf) == (measured.value, measured.low, measured.high)


def test_a_quantile_is_the_nearest_rank() -> None:
    hundred = [float(value) for value in range(1, 101)]
    assert [quantile(hundred, fraction).value for fraction in (0.07, 0.5, 0.99)] == [7, 50, 99]


def test_thousands_of_values_do_not_underflow() -> None:
    measured = median([float(value) for value in range(10_000)])
    assert 4_890 < measured.low < measured.value < measured.high < 5_110


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 20), (0.5, 31), (0.99, 500)])
def test_the_interval_holds_the_true_quantile_in_95_of_100_trials(fraction: float, count: int) -> None:
    truth = -math.log(1 - fraction)
    draw = random.Random(7)  # noqa: S311 - the same thousand trials in every run
    trials = [quantile([draw.expovariate(1) for _ in range(count)], fraction) for _ in range(1000)]
    held = sum(1 for trial in trials if trial.low <= truth <= trial.high)
    # Two standard errors of 1,000 trials below 95 %; the upper bound fails an interval that is needlessly wide.
    assert 936 <= held <= 990


@given(values, st.sampled_from([0.5, 0.9, 0.99]))
def test_value_lies_inside_its_interval(found: list[float], fraction: float) -> None:
    measured = quantile(found, fraction)
    assert measured.low <= measured.value <= measured.high
    assert measured.value in found


@given(values, st.randoms(use_true_random=False))
def test_order_of_rounds_does_not_matter(found: list[float], shuffle: random.Random) -> None:
    other = list(found)
    shuffle.shuffle(other)
    assert median(found) == median(other)


@given(st.lists(st.tuples(st.floats(1, 1e3), st.floats(1, 1e3)), min_size=1, max_size=60), st.floats(0.5, 4))
def test_a_machine_that_changes_speed_between_rounds_changes_no_ratio(
    rounds: list[tuple[float, float]], speed: float
) -> None:
    path, baseline = [one for one, _ in rounds], [other for _, other in rounds]
    faster = [speed if index % 2 else 1 for index in range(len(rounds))]
    slow = ratio(
        [a * b for a, b in zip(path, faster, strict=True)],
        [a * b for a, b in zip(baseline, faster, strict=True)],
    )
    assert ratio(path, baseline).value == pytest.approx(slow.value)


def test_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    assert ratio([2, 20, 3], [1, 10, 30]).value == 2.0


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.00, 1.05, True),
        (1.05, 1.20, True),
        (1.08, 1.20, True),
        (1.09, 1.20, False),
        (-math.inf, math.inf, True),
    ],
)
def test_a_target_is_missed_only_if_all_of_the_interval_is_beyond_it(
    low: float, high: float, expected: bool
) -> None:
    assert expected is met(Estimate(1.1, low, high), 1.08)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Estimate(1.04, 0.99, 1.08), "none"),
        (Estimate(1.04, 1.0, 1.08), "none"),
        (Estimate(1.04, 1.01, 1.08), "+4 %"),
        (Estimate(0.8, 0.7, 0.9), "-20 %"),
        (Estimate(4.17, 4.0, 4.3), "x4.2"),
    ],
)
def test_a_difference_inside_the_interval_is_none(measured: Estimate, expected: str) -> None:
    assert expected == difference(measured)

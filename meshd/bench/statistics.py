"""From rounds to figures: medians of per-round ratios with a 95 % interval, and when a target counts as met.

**Why ratios per round.** A machine gets slower and faster while it is measured (other tenants, frequency, caches). All paths
of a round run within a second of each other, so what moves the machine moves them together and leaves their ratio.

**Why order statistics.** The interval of a quantile is a pair of observed values, chosen by the binomial distribution alone:
the number of observations below the true quantile q is Binomial(n, q) whatever the distribution of the values. So there is
nothing to assume about long tails, nothing random, and the same rounds give the same interval. A bootstrap of a median of
some dozen rounds resamples the same few values and is too narrow. Source: H. A. David, H. N. Nagaraja, Order Statistics,
3rd ed., section 7.1.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
# The smallest number of rounds whose extremes enclose the median with 95 %: 1 - 2 * 0.5**6 = 0.969.
ROUNDS_MIN = 6


@dataclass(frozen=True, slots=True)
class Estimate:
    """``value`` with its 95 % interval; an end is infinite where there are too few values to bound it."""

    value: float
    low: float
    high: float


def exact(value: float) -> Estimate:
    """A figure that is read, not sampled."""
    return Estimate(value, value, value)


def unbounded(value: float) -> Estimate:
    """A figure of which nobody can say how far off it is."""
    return Estimate(value, -math.inf, math.inf)


def median(values: Sequence[float]) -> Estimate:
    """The median of ``values`` (at least one) and its interval; both ends are infinite below ROUNDS_MIN values."""
    low, high = _interval(sorted(values), 0.5)
    return Estimate(statistics.median(values), low, high)


def quantile(values: Sequence[float], fraction: float) -> Estimate:
    """The nearest-rank quantile of ``values`` (at least one) for 0 < ``fraction`` < 1, and its interval.

    Always a value that was observed: the p99 of 1,000 values is the 990th.
    """
    ordered = sorted(values)
    low, high = _interval(ordered, fraction)
    # Rounded first: 0.07 * 100 is 7.000000000000001, and its ceiling would be the next rank.
    return Estimate(ordered[max(math.ceil(round(fraction * len(ordered), 9)), 1) - 1], low, high)


def ratio(path: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The median of ``path[i] / baseline[i]``, one pair a round, and its interval.

    Raises:
        ValueError: the two have different numbers of rounds.
    """
    return median([one / other for one, other in zip(path, baseline, strict=True)])


def met(measured: Estimate, limit: float) -> bool:
    """Whether "at most ``limit``" holds: missed only if all of the interval is beyond it."""
    return measured.low <= limit


def reached(measured: Estimate, limit: float) -> bool:
    """Whether "at least ``limit``" holds: missed only if all of the interval is below it."""
    return measured.high >= limit


def difference(measured: Estimate) -> str:
    """How a ratio differs from 1: ``none`` if its interval holds 1, else the change in percent."""
    if measured.low <= 1.0 <= measured.high:
        return "none"
    return f"{(measured.value - 1) * 100:+.0f} %" if measured.value < 3 else f"x{measured.value:.1f}"


def _interval(ordered: Sequence[float], fraction: float) -> tuple[float, float]:
    """The narrowest pair of observations with at most 2.5 % of missing the quantile on each side."""
    tail = (1 - CONFIDENCE) / 2
    below = _cumulative(len(ordered), fraction)
    low = sum(1 for probability in below if probability <= tail)
    high = sum(1 for probability in below if probability < 1 - tail) + 1
    return (
        ordered[low - 1] if low >= 1 else -math.inf,
        ordered[high - 1] if high <= len(ordered) else math.inf,
    )


def _cumulative(count: int, fraction: float) -> list[float]:
    """P(Binomial(count, fraction) <= k) for k = 0..count-1; in logarithms, for thousands of values."""
    whole = math.lgamma(count + 1)
    cumulative, total = [], 0.0
    for below in range(count):
        ways = whole - math.lgamma(below + 1) - math.lgamma(count - below + 1)
        total += math.exp(ways + below * math.log(fraction) + (count - below) * math.log1p(-fraction))
        cumulative.append(total)
    return cumulative

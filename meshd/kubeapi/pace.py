"""When to ask again. Pure: what happened comes in, a wait comes out.

A server that ends watches at once, however politely, would else be asked thousands of times a second; and one that comes
back is not met by every node of a cluster in the same moment.
"""

from __future__ import annotations

from typing import NamedTuple

# From one opening to the next, at least. A watch that stood for longer and ended as it should is opened again at once.
INTERVAL_S = 1.0
FIRST_S, LAST_S = 0.5, 30.0
# A watch that stood for so long was a good one.
GOOD_S = 10.0
# A server may ask to be left alone for longer than makes sense.
RETRY_AFTER_MOST_S = 120.0


class End(NamedTuple):
    """How an attempt ended. ``clean``: the server ended a watch as it does every few minutes."""

    clean: bool
    retry_after_s: float | None = None


class Pace:
    """Of one resource."""

    def __init__(
        self, *, interval_s: float = INTERVAL_S, first_s: float = FIRST_S, last_s: float = LAST_S
    ) -> None:
        self._interval_s = interval_s
        self._first_s = first_s
        self._last_s = last_s
        self._bad = 0

    def wait_s(self, stood_s: float, end: End, chance: float) -> float:
        """Seconds until the next attempt, after one of ``stood_s``. ``chance``: 0..1, at random."""
        if stood_s >= GOOD_S:
            self._bad = 0
            if end.clean:
                return 0.0
        backoff_s: float = min(self._first_s * 2.0**self._bad, self._last_s) * (0.5 + chance / 2)
        self._bad = min(self._bad + 1, 16)
        asked_s = min(end.retry_after_s or 0.0, RETRY_AFTER_MOST_S)
        return max(backoff_s, self._interval_s - stood_s, asked_s)

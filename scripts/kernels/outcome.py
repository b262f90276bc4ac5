"""What came of the tests on one kernel, as pytest says it in its last line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# `=== 3 failed, 104 passed, 1 skipped in 62.31s (0:01:02) ===`, with and without the signs.
_LAST = re.compile(r"=*\s*(\d+ [a-z]+(?:, \d+ [a-z]+)*) in [\d.]+s\b")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``counts``: pytest's word -> tests; ``reason``: why there was no end; ``status``: pytest's, None without an end."""

    release: str
    status: int | None
    took_s: float
    counts: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.status == 0

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.release}: {self.reason}, after {self.took_s:.0f} s"
        words = {"passed": "passed", "skipped": "left out"}
        counts = [f"{number} {words.get(word, word)}" for word, number in self.counts.items()]
        # Passing tests do not make a run that passed: something may have been left out that nobody agreed to.
        said = [*counts, *([] if self.passed else [f"pytest's status is {self.status}"])]
        return f"{self.release}: {'ok' if self.passed else 'FAILED'}: {', '.join(said)}, {self.took_s:.0f} s"


def counts_in(line: str) -> Mapping[str, int]:
    """How many tests passed, failed and so on, if ``line`` is pytest's last one; else nothing."""
    found = _LAST.match(line)
    parts = found[1].split(", ") if found else []
    return {word: int(number) for number, word in (part.split(" ") for part in parts)}

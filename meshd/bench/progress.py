"""What a bench is doing, on standard error: every step with its time, every round as far as somebody is watching."""

from __future__ import annotations

import sys
import time

# In a pipe, a line at most this often.
PIPE_EVERY_S = 10.0


class Progress:
    """``step`` says what begins; ``tick`` where it stands, over and over."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._said_s = 0.0
        self._terminal = sys.stderr.isatty()
        self._what = ""

    def step(self, what: str) -> None:
        """Something new begins."""
        self._what = what
        self._say(what, last=True)

    def tick(self, where: str) -> None:
        """How far the step is; on a terminal the line is written over."""
        if self._terminal:
            self._say(f"{self._what}: {where}", last=False)
        elif time.monotonic() - self._said_s >= PIPE_EVERY_S:
            self._say(f"{self._what}: {where}", last=True)

    def end(self) -> None:
        """Leaves the terminal with a line of its own for what follows."""
        self._say("done", last=True)

    def _say(self, text: str, *, last: bool) -> None:
        self._said_s = time.monotonic()
        line = f"[{self._said_s - self._began_s:6.1f} s] {text}"
        if self._terminal:
            line = f"\r\x1b[K{line}"
        print(line, end="\n" if last else "", file=sys.stderr, flush=True)

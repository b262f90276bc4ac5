"""What is seen while the demo runs: a picture that redraws itself on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import TextIO

from meshd.lab.demo.requests import Request

REDRAW_S = 0.25
LINE_S = 1.0
BAR = 40
HISTORY_S = 60
LEVELS = " ▁▂▃▄▅▆▇█"
COLOURS = ("\033[36m", "\033[33m", "\033[35m", "\033[32m")
RED, BOLD, DIM, RESET = "\033[31m", "\033[1m", "\033[2m", "\033[0m"
CLEAR_LINE, UP = "\033[K", "\033[{}A"


class Picture:
    """Answers per second by cluster, what is lost, and the phase. Fed with requests as they are read."""

    def __init__(self, out: TextIO, clusters: Sequence[str]) -> None:
        self._out = out
        self._clusters = list(clusters)
        self._begun = time.monotonic()
        self._heading = "starting"
        self._recent: deque[Request] = deque()
        self._seconds: dict[int, Counter[str]] = {}
        self._requests = self._lost = 0
        self._drawn = 0
        self._live = out.isatty()
        self._next = 0.0

    def phase(self, heading: str) -> None:
        """From now on this is what happens."""
        self._heading = heading
        self.say(f"\n{heading}" if not self._live else f"{BOLD}{heading}{RESET}")

    def say(self, line: str) -> None:
        """A line that stays, above the picture."""
        self._erase()
        seconds = time.monotonic() - self._begun
        self._out.write(f"{line}\n" if line.startswith(("\n", "\033")) else f"  {seconds:5.1f} s  {line}\n")
        self._out.flush()
        if self._live and self._next:
            self._draw()

    def add(self, requests: Sequence[Request]) -> None:
        """More requests; draws if it is time."""
        for request in requests:
            self._requests += 1
            self._lost += bool(request.lost)
            second = request.ended_ns // 10**9
            self._seconds.setdefault(second, Counter())[request.cluster or "lost"] += 1
        now = time.monotonic()
        if requests and not self._next:
            # The first rate is that of a whole second.
            self._next = now + LINE_S
        if self._next and now >= self._next:
            self._next = now + (REDRAW_S if self._live else LINE_S)
            if self._live:
                self._erase()
                self._draw()
            else:
                self._line()

    def close(self) -> None:
        """Leaves the screen to whoever writes next."""
        self._erase()

    def rate(self, name: str) -> int:
        """Answers of cluster ``name`` (or "lost") in the last whole second."""
        second = time.monotonic_ns() // 10**9 - 1
        return self._seconds.get(second, Counter())[name]

    def _line(self) -> None:
        rates = "   ".join(f"{cluster} {self.rate(cluster):4d}/s" for cluster in self._clusters)
        self._out.write(f"  {time.monotonic() - self._begun:5.1f} s  {rates}   lost {self._lost}\n")
        self._out.flush()

    def _draw(self) -> None:
        highest = max([1, *(self.rate(cluster) for cluster in self._clusters)])
        full = max(highest, sum(self.rate(cluster) for cluster in self._clusters))
        lines = [""]
        for number, cluster in enumerate(self._clusters):
            colour, rate = COLOURS[number % len(COLOURS)], self.rate(cluster)
            bar = "█" * round(BAR * rate / full)
            lines.append(
                f"  {cluster:<8} {colour}{bar:<{BAR}}{RESET} {rate:4d}/s  {DIM}{self._history(cluster)}{RESET}"
            )
        lost = f"{RED}{BOLD}lost {self._lost}{RESET}" if self._lost else "lost 0"
        lines.append(f"  {self._heading}   {self._requests} requests   {lost}")
        self._out.write("".join(f"{line}{CLEAR_LINE}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)

    def _history(self, cluster: str) -> str:
        now = time.monotonic_ns() // 10**9
        shown = [self._seconds.get(second, Counter())[cluster] for second in range(now - HISTORY_S // 2, now)]
        highest = max([1, *(count for seconds in self._seconds.values() for count in seconds.values())])
        return "".join(LEVELS[round(count / highest * (len(LEVELS) - 1))] for count in shown)

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(UP.format(self._drawn) + "\033[J")
            self._out.flush()
            self._drawn = 0

"""A phase of a demo: what is done, when each thing happened, and what must have been seen.

``Ground`` is what phases act on: a lab (``phases.py``), or clusters of Kubernetes (scripts/kubernetes/demo).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from meshd.lab.demo.checks import Check, Excuses, Switch, nobody_is_excused

Ground = TypeVar("Ground")


@dataclass(slots=True)
class Stage(Generic[Ground]):
    """What a phase acts on, and where it writes down what it did. ``show`` gives a line to whoever watches."""

    ground: Ground
    show: Callable[[str], None]
    moments: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def now(self, moment: str, line: str, at_ns: int | None = None) -> None:
        """``moment`` was now, or ``at_ns`` (monotonic)."""
        self.moments[moment] = time.monotonic_ns() if at_ns is None else at_ns
        self.show(line)


@dataclass(frozen=True, slots=True)
class Phase(Generic[Ground]):
    """``act`` does it; ``check`` and ``switch`` judge afterwards. ``may_lose``: lost requests are part of what it shows;
    ``excuses``: which of them nobody could have saved."""

    name: str
    act: Callable[[Stage[Ground]], Awaitable[None]]
    check: Check
    switch: Switch
    may_lose: bool = False
    excuses: Excuses = nobody_is_excused

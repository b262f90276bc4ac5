"""A fault: what is done, what of the lab is silent or dead by it, and how it is undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshd.lab.faults.effect import Effect
from meshd.lab.faults.ground import Ground

Act = Callable[[Ground], Awaitable[None]]


async def nothing(_ground: Ground) -> None:
    """Nothing has to be done."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``inject`` does it: from its beginning on something may be felt, from its end on all of ``effect`` is in force.

    ``prepare`` comes before, and is not felt. ``touches``: nodes and etcds (etcd/CLUSTER) that it acts on; faults
    overlap only if they share none, so that none undoes the other. ``hold_s``: how long it lasts at least.
    """

    name: str
    effect: Effect
    inject: Act
    heal: Act
    touches: frozenset[str]
    prepare: Act = nothing
    hold_s: float = 0.0

"""A series of faults from beginning to end: a lab, the trials, the report, and nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from meshd.lab.faults import links, report
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import Ground
from meshd.lab.faults.kinds import drawn, drawn_of, in_turn, series
from meshd.lab.faults.report import Report
from meshd.lab.faults.run import Series
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from meshd.lab.record import held
from meshd.lab.session import taken_down_on_failure
from meshd.lab.spec import LabSpec
from meshd.lab.up import Say, up

# What comes in one trial; drawn when its turn has come, because who is publisher is known only then.
Draw = Callable[[random.Random, Ground], Sequence[Fault]]


def drawn_in_turn(rng: random.Random, count: int, names: Sequence[str]) -> list[Draw]:
    """``count`` faults of kinds ``names``, some in pairs."""
    return [partial(drawn, each) for each in series(rng, count, names)]


def drawn_together(rng: random.Random, count: int, names: Sequence[str], most: int) -> Iterator[Draw]:
    """``count`` faults of kinds ``names``, at most ``most`` at once and of these one that anybody feels: as many in little
    time as can be judged one by one.
    """
    waiting = in_turn(rng, count, names)
    while waiting:
        yield partial(drawn_of, waiting, most)


def each_alone(names: Sequence[str]) -> list[Draw]:
    """One fault of each of ``names``, in this order."""
    return [partial(drawn, (name,)) for name in names]


def only_loss(percent: int, seconds: float) -> Draw:
    """No fault but this: of the packets from every node so many of a hundred get lost, for so long."""
    return lambda _rng, ground: [links.loss(percent, ground.lab.nodes, seconds)]


async def go_through(
    places: Places, spec: LabSpec, draws: Iterable[Draw], rng: random.Random, seed: int, out: Path, say: Say
) -> Report:
    """Makes a lab of ``spec`` (``ground.spec``) at ``places``, goes through ``draws``, takes it down.

    ``out`` gets faults.json and lost.txt.
    """
    lab = Lab(places, spec)
    with held(places):
        async with taken_down_on_failure(lab, say):
            say(f"lab {places.id}, seed {seed}")
            await up(lab, say)
            lab.keep_as("demo")
            ground = Ground(lab)
            ground.start_diallers()
            await ground.everybody_calls()
            trials = Series(ground, rng, say)
            for draw in draws:
                await trials.trial(draw(rng, ground))
            judged = await trials.finish()
            result = report.make(seed, judged, trials.accounted())
            report.write(result, judged, out)
        lab.take_down()
    return result

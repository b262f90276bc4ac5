"""Faults one after the other: inject, wait for the switch, undo, wait until all is as before; judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from meshd.lab.demo.requests import Request, between
from meshd.lab.faults.effect import union
from meshd.lab.faults.expected import expected
from meshd.lab.faults.fault import Fault
from meshd.lab.faults.ground import DIAL_DEADLINE_S, DIAL_S, Ground
from meshd.lab.faults.verdict import Injection, Trial, Verdict, has_switched, judge
from meshd.lab.readiness import settled

Say = Callable[[str], None]

# After all is as before: so long all clusters must be seen to serve.
CALM_S = 1.2
# An overlapping fault begins within this time of the first.
APART_S = 1.5
# Clients wait so long for an answer (x_wing.py); what is still under way says nothing yet.
UNDER_WAY_S = 2.2
# Reached only if nobody switches; how long it took is in the report.
SWITCH_PATIENCE_S = 30.0
# A node that fell n times has to answer for 2^n seconds until it is used again, for 64 at most (docs/probes.md).
SETTLE_PATIENCE_S = 90.0
# An agent that saw a node fall so often is started anew, or a series would mostly wait for nodes to be trusted again.
FALLS_MOST = 3
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Judged:
    """One trial with its verdict."""

    faults: tuple[str, ...]
    trial: Trial
    verdict: Verdict


class Series:
    """Trials on ``ground``, one after the other; `finish` gives them judged."""

    def __init__(self, ground: Ground, rng: random.Random, say: Say) -> None:
        self._ground = ground
        self._rng = rng
        self._say = say
        self._waiting: tuple[tuple[str, ...], Trial] | None = None
        self._judged: list[Judged] = []
        self._falls: Counter[tuple[str, str]] = Counter()
        self._answers: Counter[str] = Counter()
        self._lost = 0
        self._begun_ns = time.monotonic_ns()

    async def trial(self, faults: Sequence[Fault]) -> None:
        """Does ``faults``, overlapping, and judges the trial before: of that one everything is written down by now.

        Raises:
            LabError: the lab does not become as it was before; nothing more can be shown with it.
        """
        self._say(f"{' + '.join(fault.name for fault in faults)}")
        trial = await self._do(faults)
        self._judge_waiting()
        self._waiting = tuple(fault.name for fault in faults), trial
        self._falls.update(trial.expected.must_fall)
        self._falls = Counter(
            {pair: count for pair, count in self._falls.items() if pair[0] not in self._ground.fresh_agents}
        )
        self._ground.fresh_agents.clear()
        if any(count >= FALLS_MOST for count in self._falls.values()):
            self._falls.clear()
            await self._ground.restart_agents()
            self._ground.fresh_agents.clear()
        self._begun_ns = trial.ended_ns

    async def finish(self) -> list[Judged]:
        """Ends the clients and judges the last trial; all of them, in order."""
        await self._ground.end_calls()
        self._judge_waiting()
        self._account(self._ground.requests)
        return self._judged

    def accounted(self) -> list[str]:
        """Where the answers that clients got are not those that backends gave, as sentences."""
        got = Counter(self._answers)
        counted = self._ground.counts()
        if not self._ground.clients_died:
            unclaimed = sum(max(0, counts.answered - got[pod]) for pod, counts in counted.items())
            if unclaimed > self._lost:
                return [
                    f"backends gave {unclaimed} answers that no client got, but {self._lost} requests were lost"
                ]
        return [
            f"clients got {number} answers from {pod}, which gave {counted[pod].begun}"
            for pod, number in got.items()
            if number > counted[pod].begun
        ]

    async def _do(self, faults: Sequence[Fault]) -> Trial:
        ground, lab = self._ground, self._ground.lab
        wanted = expected(
            lab.clusters,
            ground.backends,
            union(fault.effect for fault in faults),
            is_single=sum(fault.effect.is_felt for fault in faults) <= 1,
        )
        problems: list[str] = []
        # Some wait until all agents say that they are ready; others kill one.
        for fault in sorted(faults, key=lambda fault: bool(fault.effect.without_agent)):
            await fault.prepare(ground)
        injections: list[Injection] = []

        async def inject(fault: Fault, after_s: float) -> None:
            await asyncio.sleep(after_s)
            alone = expected(lab.clusters, ground.backends, fault.effect)
            at_ns = time.monotonic_ns()
            await fault.inject(ground)
            injections.append(Injection(fault.name, at_ns, time.monotonic_ns(), alone))

        apart_s = [0.0, *(self._rng.uniform(0, APART_S) for _ in faults[1:])]
        await _all_of(map(inject, faults, apart_s))
        in_force_ns = time.monotonic_ns()
        hold_s = max(fault.hold_s for fault in faults)
        problems += await self._switched(
            [n for n, o in wanted.outlooks.items() if o.must_switch], in_force_ns
        )
        # Long enough for each dialler to have tried everybody, also where nobody has to switch.
        least_s = max(hold_s, 2 * DIAL_S + DIAL_DEADLINE_S + 0.5)
        await asyncio.sleep(max(0.0, least_s - (time.monotonic_ns() - in_force_ns) / 1e9))
        healing_ns = time.monotonic_ns()
        await _all_of(fault.heal(ground) for fault in faults)
        healed_ns = time.monotonic_ns()
        await settled(lab, SETTLE_PATIENCE_S)
        settled_ns = time.monotonic_ns()
        await asyncio.sleep(CALM_S)
        ended_ns = time.monotonic_ns()
        return Trial(
            wanted,
            sorted(injections, key=lambda injection: injection.at_ns),
            self._begun_ns,
            in_force_ns,
            healing_ns,
            healed_ns,
            settled_ns,
            ended_ns,
            tuple(problems),
        )

    async def _switched(self, nodes: Sequence[str], in_force_ns: int) -> list[str]:
        """Returns when the clients of ``nodes`` have switched, or with who has not after a long time."""
        ground, deadline = self._ground, time.monotonic() + SWITCH_PATIENCE_S
        waiting = list(nodes)
        while waiting and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            ground.read()
            known = between(ground.requests, in_force_ns, time.monotonic_ns() - int(UNDER_WAY_S * 1e9))
            node_of = ground.node_of
            waiting = [
                node
                for node in waiting
                if not has_switched(in_force_ns, [each for each in known if node_of[each.client] == node])
            ]
        return [
            f"clients of {node} go on losing requests {SWITCH_PATIENCE_S:g} s after the fault"
            for node in waiting
        ]

    def _account(self, requests: Sequence[Request]) -> None:
        self._answers.update(f"{each.cluster}/{each.pod}" for each in requests if not each.lost)
        self._lost += sum(bool(each.lost) for each in requests)

    def _judge_waiting(self) -> None:
        if self._waiting is None:
            return
        faults, trial = self._waiting
        self._waiting = None
        written = self._ground.take_before(trial.ended_ns)
        self._account(written.requests)
        verdict = judge(trial, written)
        self._judged.append(Judged(faults, trial, verdict))
        self._say(f"  {'as it must' if verdict.ok else 'WRONG'}: {' + '.join(faults)}")
        for sentence in (*verdict.wrong, *verdict.problems):
            self._say(f"    {sentence}")


async def _all_of(acts: Iterable[Awaitable[None]]) -> None:
    """Does them at once.

    Raises:
        LabError: of the first that fails; the others are not waited for.
    """
    try:
        async with asyncio.TaskGroup() as doing:
            for act in acts:
                doing.create_task(_done(act))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _done(act: Awaitable[None]) -> None:
    await act

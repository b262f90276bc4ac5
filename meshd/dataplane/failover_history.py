"""Which failovers there were: from what is found out (outages, the clusters' own word) and what the kernel then holds.

A service fails over when a cluster that takes some of its new connections loses backends to silence, or has none left that
serves. That a ladder, a weight or a return moves traffic is none.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from meshd.dataplane.probes.confirmation import Connects
from meshd.dataplane.rows import Plan, Takers
from meshd.model import BackendSlice, Outage, ServiceName
from meshd.model.cluster import REMOTE_PREFIX
from meshd.model.failover_history import Cause, Failover, Move
from meshd.state import Mesh, PlanKey
from meshd.state.mesh import Object

# What befalls a cluster within this time is one failover.
TOGETHER_S = 2.0
# The oldest go first, those that are over before others.
FAILOVERS_MAX = 200
MOVES_MAX = 50


class FailoverHistory:
    """``cluster``: this node's own. ``past``: what an earlier process knew, oldest first. Clocks in seconds.

    `written` is to be called with every plan that the kernel holds.
    """

    def __init__(
        self,
        mesh: Mesh,
        cluster: str,
        past: Sequence[Failover] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._mesh = mesh
        self._cluster = cluster
        self._clock = clock
        self._wall = wall
        self._failovers: dict[int, Failover] = dict(enumerate(past))
        self._next = len(past)
        # Of those that this process found: when, by `clock`.
        self._found_at: dict[int, float] = {}
        # Of those that go on: what connections to their nodes saw, and what an earlier process counted.
        self._seen: dict[int, dict[str, Connects]] = {}
        self._counted = {number: each.unanswered or 0 for number, each in self._failovers.items()}
        # Nodes that fell: when, by `clock`.
        self._fell_at: dict[tuple[str, str], float] = {}
        # What the kernel holds, and since when.
        self._takers: dict[ServiceName, tuple[Takers, float]] = {}
        # Services of which some source said something that the kernel does not hold yet: since when.
        self._said_at: dict[ServiceName, float] = {}
        self.changed = asyncio.Event()
        """Set by every change; whoever reads clears it."""
        self.counts: Counter[tuple[str, Cause]] = Counter()
        self.moves: Counter[tuple[str, Cause]] = Counter()
        # Sums of seconds, since the start.
        self.detection_s: dict[str, float] = {}
        self.switch_s: dict[tuple[str, Cause], float] = {}
        mesh.observe(self._observe)

    @property
    def failovers(self) -> list[Failover]:
        """All that are remembered, the oldest first."""
        return list(self._failovers.values())

    def uncounted(self) -> dict[int, Failover]:
        """Number -> one that this process found, whose connections nobody counted yet."""
        return {
            number: each
            for number in self._found_at
            if (each := self._failovers.get(number)) is not None
            and each.cause is Cause.SILENT
            and each.connections is None
        }

    def count(self, number: int, connections: int) -> None:
        """So many sockets were open to the silent nodes of failover ``number``."""
        if number in self._failovers:
            self._set(number, connections=connections)

    def saw(self, cluster: str, node: str, connects: Connects) -> None:
        """What connections to the silent ``node`` saw so far; of an earlier process' sums the larger ones hold."""
        for number, each in self._failovers.items():
            goes_on = each.cause is Cause.SILENT and each.ended_s is None
            if not goes_on or each.cluster != cluster or node not in each.nodes:
                continue
            seen = self._seen.setdefault(number, {})
            if seen.get(node) == connects:
                return
            seen[node] = connects
            unanswered = max(self._counted.get(number, 0), sum(one.unanswered for one in seen.values()))
            last_s = self._wall() - (self._clock() - connects.last_at) if connects.last_at else 0.0
            last_s = max(each.last_connection_s or 0.0, last_s)
            self._set(number, unanswered=unanswered, last_connection_s=last_s or None)
            return

    def written(self, key: PlanKey, plan: Plan) -> None:
        """The kernel holds ``plan``."""
        if key.kind != "service":
            return
        name, now = ServiceName(*key.name.split("/", 1)), self._clock()
        said_at = self._said_at.pop(name, None) or now - self._mesh.pending_s(key)
        before = self._takers.pop(name, None)
        if plan.takers is not None:
            self._takers[name] = plan.takers, now
            if before is not None and before[0] != plan.takers:
                self._lost_to_silence(name, *before, plan.takers, now)
                self._lost_by_word(name, before[0], plan.takers, said_at, now)
        self._returned(name, plan.takers)

    def _lost_to_silence(
        self, name: ServiceName, before: Takers, before_at: float, after: Takers, now: float
    ) -> None:
        for cluster in before.shares:
            number = self._latest(cluster, Cause.SILENT)
            if number is None or after.silent.get(cluster, 0) <= before.silent.get(cluster, 0):
                continue
            nodes = self._failovers[number].nodes
            fell_at = max(self._fell_at.get((cluster, node), float("-inf")) for node in nodes)
            # Else a backend was added on a node that had been silent, and took no traffic before.
            if fell_at >= before_at:
                self._add(number, Move(name, now - fell_at, before.shares, after.shares))

    def _lost_by_word(
        self, name: ServiceName, before: Takers, after: Takers, said_at: float, now: float
    ) -> None:
        if not after.is_global:
            return  # it left others' backends, or never had any
        for cluster in before.shares:
            is_silent = after.silent.get(cluster, 0) > before.silent.get(cluster, 0)
            if cluster in before.usable and cluster not in after.usable and not is_silent:
                number = self._by_word(cluster, self._cause(cluster, after), said_at, now)
                self._set(number, waiting=(*self._failovers[number].waiting, name))
                self._add(number, Move(name, now - said_at, before.shares, after.shares))

    def _cause(self, cluster: str, after: Takers) -> Cause:
        if cluster in after.stale:
            return Cause.STALE
        gone = cluster != self._cluster and REMOTE_PREFIX + cluster not in self._mesh.sources
        return Cause.LEFT if gone else Cause.WITHDRAWN

    def _by_word(self, cluster: str, cause: Cause, said_at: float, now: float) -> int:
        number, found_s = self._latest(cluster, cause, TOGETHER_S), self._wall() - (now - said_at)
        if number is None:
            return self._begin(Failover(cluster, cause, found_s), said_at)
        # Services are written in an order of their own.
        self._set(number, found_s=min(self._failovers[number].found_s, found_s))
        return number

    def _returned(self, name: ServiceName, takers: Takers | None) -> None:
        for number, each in list(self._failovers.items()):
            if name not in each.waiting or not (takers is None or each.cluster in takers.usable):
                continue
            waiting = tuple(other for other in each.waiting if other != name)
            self._set(number, waiting=waiting, ended_s=None if waiting else self._wall())

    def _observe(self, _source: str, puts: list[Object], deletes: list[tuple[type, Hashable]]) -> None:
        now = self._clock()
        for value in puts:
            if isinstance(value, BackendSlice):
                self._said_at.setdefault(value.service, now)
            elif isinstance(value, Outage):
                self._fell(value, now)
        for kind, key in deletes:
            if kind is BackendSlice and isinstance(key, tuple):
                self._said_at.setdefault(key[1], now)
            elif kind is Outage and isinstance(key, tuple):
                self._answers(key[1], key[2])

    def _fell(self, outage: Outage, now: float) -> None:
        is_silent = (each for each in self._failovers.values() if each.cause is Cause.SILENT)
        if any(
            each.cluster == outage.cluster and outage.node in each.nodes and each.ended_s is None
            for each in is_silent
        ):
            return  # from before the start
        self._fell_at[outage.cluster, outage.node] = now
        detection_s = outage.silent_s or None
        number = self._latest(outage.cluster, Cause.SILENT, TOGETHER_S)
        if number is None:
            number = self._begin(Failover(outage.cluster, Cause.SILENT, outage.since_s), now)
        each = self._failovers[number]
        longest = max(filter(None, (each.detection_s, detection_s)), default=None)
        grown = (longest or 0.0) - (each.detection_s or 0.0)
        self.detection_s[outage.cluster] = self.detection_s.get(outage.cluster, 0.0) + grown
        self._set(number, nodes=(*each.nodes, outage.node), detection_s=longest, connections=None)

    def _answers(self, cluster: str, node: str) -> None:
        """The node answers again, or is not asked any more."""
        self._fell_at.pop((cluster, node), None)
        for number, each in list(self._failovers.items()):
            is_of_it = each.cause is Cause.SILENT and each.cluster == cluster and each.ended_s is None
            if is_of_it and not any(self._is_down(cluster, other) for other in each.nodes):
                self._seen.pop(number, None)
                self._set(number, ended_s=self._wall())

    def _is_down(self, cluster: str, node: str) -> bool:
        return any((each.cluster, each.node) == (cluster, node) for each in self._mesh.outages.values())

    def _latest(self, cluster: str, cause: Cause, within_s: float | None = None) -> int | None:
        """The newest that goes on, of those found less than ``within_s`` ago."""
        for number in reversed(self._failovers):
            each = self._failovers[number]
            if (each.cluster, each.cause, each.ended_s) == (cluster, cause, None):
                age = self._clock() - self._found_at.get(number, float("-inf"))
                return number if within_s is None or age <= within_s else None
        return None

    def _begin(self, one: Failover, found_at: float) -> int:
        number, self._next = self._next, self._next + 1
        self._failovers[number], self._found_at[number] = one, found_at
        self.counts[one.cluster, one.cause] += 1
        while len(self._failovers) > FAILOVERS_MAX:
            over = (old for old, each in self._failovers.items() if each.ended_s is not None)
            oldest = next(over, next(iter(self._failovers)))
            del self._failovers[oldest]
            self._found_at.pop(oldest, None)
            self._seen.pop(oldest, None)
        return number

    def _add(self, number: int, move: Move) -> None:
        each = self._failovers[number]
        key = each.cluster, each.cause
        self.moves[key] += 1
        self.switch_s[key] = self.switch_s.get(key, 0.0) + move.switch_s
        moves = (*each.moves, move) if len(each.moves) < MOVES_MAX else each.moves
        longest = max(each.switch_s or 0.0, move.switch_s)
        self._set(number, moves=moves, moved=each.moved + 1, switch_s=longest)

    def _set(self, number: int, **facts: object) -> None:
        self._failovers[number] = replace(self._failovers[number], **facts)  # type: ignore[arg-type] # of all types
        self.changed.set()

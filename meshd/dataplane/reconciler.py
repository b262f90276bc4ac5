"""Makes the kernel agree with the mesh: takes the plan keys that changed, plans them, writes the difference.

Order within one turn: puts in the order of MAPS (a frontend after what it names), then deletes in the reverse order; rows
of RETIRED maps go later, when no program can be reading them any more (retire.py). If the process dies between any two
system calls, the kernel holds old or new lists, each complete, and rows that nobody names, which the next start sweeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from meshd.dataplane.delta import Delta, Writes
from meshd.dataplane.rows import Plan, ServedFrontend
from meshd.dataplane.writer import Writer
from meshd.errors import MeshError
from meshd.state import Mesh, PlanKey

log = structlog.get_logger(__name__)

# Keys planned and written before the loop gets to do something else: a few ms.
TURN = 64
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 30.0

PlanOne = Callable[[PlanKey], Plan]


class Reconciler:
    """``plan`` is called for every changed key; ``closing`` hears of packed frontends that lost somebody who
    served, with who served before."""

    def __init__(
        self,
        mesh: Mesh,
        delta: Delta,
        writer: Writer,
        plan: PlanOne,
        closing: Callable[[Mapping[bytes, ServedFrontend]], None],
    ) -> None:
        self._mesh = mesh
        self._delta = delta
        self._writer = writer
        self._plan = plan
        self._closing = closing
        self._queue: dict[PlanKey, None] = {}
        self._attempts: dict[PlanKey, tuple[int, float]] = {}
        self._served_by_key: dict[PlanKey, dict[bytes, ServedFrontend]] = {}
        self.served: dict[bytes, ServedFrontend] = {}
        self.turns = 0
        self.last_turn_s = 0.0
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled. Wakes for changes, and for retries that are due."""
        while True:
            moved = self._mesh.moved_event()
            self.retry_due(time.monotonic())
            self.take()
            while self._queue:
                self.turn()
                await asyncio.sleep(0)
                self.take()
            try:
                async with asyncio.timeout(self._until_retry(time.monotonic())):
                    await moved.wait()
            except TimeoutError:
                continue

    def take(self) -> None:
        """Queue what changed; the newest first, so that one change does not wait behind ten thousand."""
        taken = self._mesh.take_changes()
        if not taken:
            return
        if len(taken) > TURN or not self._queue:
            for key in taken:
                self._queue.setdefault(key, None)
        else:
            self._queue = dict.fromkeys(taken) | self._queue

    def turn(self) -> None:
        """Plan and write some keys of the queue, and report each of them."""
        started = time.monotonic()
        keys = [key for key, _ in zip(self._queue, range(TURN), strict=False)]
        for key in keys:
            del self._queue[key]
        staged: dict[PlanKey, tuple[Plan, Writes]] = {}
        outcomes: dict[PlanKey, Exception | None] = {}
        new_rows: dict[str, int] = {}
        for key in keys:
            error = self._stage(key, staged, new_rows)
            if error is not None:
                outcomes[key] = error
        failed = self._writer.write({key: writes for key, (_, writes) in staged.items()})
        for key, (plan, _) in staged.items():
            outcomes[key] = failed.get(key)
            if key not in failed:
                self._serve(key, plan)
        for key, error in outcomes.items():
            self._report(key, error)
        self.turns += 1
        self.last_turn_s = time.monotonic() - started

    def _stage(
        self, key: PlanKey, staged: dict[PlanKey, tuple[Plan, Writes]], new_rows: dict[str, int]
    ) -> Exception | None:
        try:
            plan = self._plan(key)
            writes = self._delta.stage(key, plan.rows)
            self._delta.check_room(writes, new_rows)
        except MeshError as error:
            return error
        except Exception as error:  # one bad object must not stop the others; it is reported with its key
            log.exception("plan failed", key=str(key))
            return error
        for name, puts in writes.puts.items():
            fresh = sum(1 for row in puts if row not in self._delta.observed[name])
            new_rows[name] = new_rows.get(name, 0) + fresh
        staged[key] = (plan, writes)
        return None

    def _serve(self, key: PlanKey, plan: Plan) -> None:
        """Remember who serves, and let the sockets of those that do not any more be closed."""
        before = self._served_by_key.pop(key, {})
        if plan.served:
            self._served_by_key[key] = plan.served
        lost = {}
        for frontend, served in before.items():
            now = plan.served.get(frontend)
            if now is None:
                self.served.pop(frontend, None)
            if now is None or not set(served.backends) <= set(now.backends):
                lost[frontend] = served
        self.served.update(plan.served)
        if lost:
            self._closing(lost)

    def _report(self, key: PlanKey, error: Exception | None) -> None:
        if error is None:
            self._attempts.pop(key, None)
        else:
            self.failures += 1
            attempt = self._attempts.get(key, (0, 0.0))[0]
            delay = min(RETRY_FIRST_S * 2**attempt, RETRY_LAST_S)
            self._attempts[key] = (attempt + 1, time.monotonic() + delay)
            if attempt == 0:
                log.warning("rows not written", key=str(key), reason=str(error))
        self._mesh.report(key, error)

    def retry_due(self, now: float) -> None:
        """Queue again what failed and has waited long enough."""
        for key, (attempt, due) in self._attempts.items():
            if due <= now:
                self._attempts[key] = (attempt, float("inf"))
                self._mesh.touch(key)

    def _until_retry(self, now: float) -> float | None:
        due = min((due for _, due in self._attempts.values()), default=float("inf"))
        return None if due == float("inf") else max(due - now, 0.0)

    @property
    def waiting(self) -> Mapping[PlanKey, tuple[int, float]]:
        """Failed keys: attempts so far, and when the next one is due (monotonic)."""
        return self._attempts

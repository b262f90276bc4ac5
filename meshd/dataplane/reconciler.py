"""Makes the kernel agree with the mesh: takes the plan keys that changed, plans them, writes the difference.

Order within one turn: puts in the order of MAPS (a frontend after what it names), then deletes in the reverse order; rows
of RETIRED maps go later, when no program can be reading them any more (retire.py). If the process dies between any two
system calls, the kernel holds old or new lists, each complete, and rows that nobody names, which the next start sweeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from meshd.dataplane.blocked import Blocked
from meshd.dataplane.delta import Delta, RowTaken, Writes
from meshd.dataplane.rows import Plan, ServedFrontend
from meshd.dataplane.writer import Writer
from meshd.errors import MapFull, MeshError
from meshd.state import Mesh, PlanKey

log = structlog.get_logger(__name__)

# Keys planned and written before the loop gets to do something else: a few ms.
TURN = 64
RETRY_FIRST_S = 0.2
RETRY_LAST_S = 30.0

PlanOne = Callable[[PlanKey], Plan]


@dataclass(slots=True)
class Turn:
    """What one turn writes: staged keys, outcomes of those that cannot be staged, and entries taken, by map."""

    staged: dict[PlanKey, tuple[Plan, Writes]] = field(default_factory=dict)
    outcomes: dict[PlanKey, Exception | None] = field(default_factory=dict)
    new_rows: dict[str, int] = field(default_factory=dict)

    def stage(self, key: PlanKey, plan: Plan, writes: Writes, delta: Delta) -> None:
        for name, puts in writes.puts.items():
            fresh = sum(1 for row in puts if row not in delta.observed[name])
            self.new_rows[name] = self.new_rows.get(name, 0) + fresh
        self.staged[key] = (plan, writes)


class Reconciler:
    """``plan`` is called for every changed key; ``closing`` hears of packed frontends that lost somebody who
    served, with who served before; ``written`` of every plan that the kernel holds now."""

    def __init__(
        self,
        mesh: Mesh,
        delta: Delta,
        writer: Writer,
        plan: PlanOne,
        closing: Callable[[Mapping[bytes, ServedFrontend]], None],
        written: Callable[[PlanKey, Plan], None] = lambda _key, _plan: None,
    ) -> None:
        self._mesh = mesh
        self._delta = delta
        self._writer = writer
        self._retired = writer.retired
        self._retired.tell(self.room_made)
        self._plan = plan
        self._closing = closing
        self._written = written
        self._queue: dict[PlanKey, None] = {}
        self._blocked = Blocked()
        # Waiting for retired rows to go, and not reported as failed.
        self._awaiting_room: set[PlanKey] = set()
        # Put off once already, to the end of the queue; until reported, so that nobody puts off for ever.
        self._last: set[PlanKey] = set()
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
        """Queue what changed; the newest first, so that one change does not wait behind ten thousand. A workload goes before
        all others, however many came with it: somebody waits for it with a container half made."""
        taken = self._mesh.take_changes()
        if not taken:
            return
        if len(taken) > TURN or not self._queue:
            for key in taken:
                self._queue.setdefault(key, None)
        else:
            self._queue = dict.fromkeys(taken) | self._queue
        workloads = [key for key in taken if key.kind == "workload"]
        if workloads:
            self._queue = dict.fromkeys(workloads) | self._queue

    def turn(self) -> None:
        """Plan and write some keys of the queue, and report each of them."""
        started = time.monotonic()
        turn = Turn()
        for _ in range(min(TURN, len(self._queue))):
            if not self._queue:
                break
            self._stage(next(iter(self._queue)), turn)
        failed = self._writer.write({key: writes for key, (_, writes) in turn.staged.items()})
        for key, (plan, _) in turn.staged.items():
            turn.outcomes[key] = failed.get(key)
            if key not in failed:
                self._delta.settled(key)
                self._serve(key, plan)
                self._written(key, plan)
        for key, error in turn.outcomes.items():
            self._report(key, error)
        if any(writes.deletes for _, writes in turn.staged.values()):
            self.room_made()
        self.turns += 1
        self.last_turn_s = time.monotonic() - started

    def _stage(self, key: PlanKey, turn: Turn) -> None:
        """Plan ``key`` and stage its writes, or find out why not; and then those that waited for its rows, so that
        a frontend passes from one service to another in one update."""
        self._queue.pop(key, None)
        try:
            plan = self._plan(key)
            if self._gives_up_too_early(key, plan):
                return
            writes = self._delta.stage(key, plan.rows)
            self._delta.check_room(writes, turn.new_rows)
        except MeshError as error:
            self._refused(key, error, turn)
        except Exception as error:  # one bad object must not stop the others; it is reported with its key
            log.exception("plan failed", key=str(key))
            self._refused(key, error, turn)
        else:
            self._blocked.discard(key)
            turn.stage(key, plan, writes, self._delta)
        for follower in self._blocked.on(key):
            if follower not in turn.staged and follower not in turn.outcomes:
                self._stage(follower, turn)

    def _gives_up_too_early(self, key: PlanKey, plan: Plan) -> bool:
        """Whether somebody in the queue may want what ``key`` gives up: then it is planned once more, after them."""
        if key in self._last or not self._queue or not self._delta.gives_up(key, plan.rows):
            return False
        self._last.add(key)
        self._queue[key] = None
        return True

    def _refused(self, key: PlanKey, error: Exception, turn: Turn) -> None:
        self._blocked.discard(key)
        if isinstance(error, RowTaken | MapFull):
            self._blocked.add(key, error)
        if isinstance(error, RowTaken) and (error.owner in self._queue or self._mesh.is_dirty(error.owner)):
            return  # tried again as soon as that one is planned
        if (
            isinstance(error, MapFull)
            and self._retired.waiting_in(error.map_name) >= error.needed - error.free
        ):
            self._awaiting_room.add(key)
            return
        turn.outcomes[key] = error

    def room_made(self) -> None:
        """Rows were deleted: those that waited for room are planned again."""
        maps = self._delta.capacity
        fitting = list(self._blocked.fitting({name: self._delta.free(name) for name in maps}))
        for key in [*self._awaiting_room, *fitting]:
            self._mesh.touch(key)
        self._awaiting_room.clear()

    def _serve(self, key: PlanKey, plan: Plan) -> None:
        """Remember who serves, and let the sockets of those that do not any more be closed."""
        before = self._served_by_key.pop(key, {})
        if plan.served:
            self._served_by_key[key] = plan.served
        lost = {}
        for frontend, served in before.items():
            now = plan.served.get(frontend)
            if now is None and self.served.get(frontend) is served:  # else another service has it by now
                del self.served[frontend]
            if now is None or not set(served.backends) <= set(now.backends):
                lost[frontend] = served
        self.served.update(plan.served)
        if lost:
            self._closing(lost)

    def _report(self, key: PlanKey, error: Exception | None) -> None:
        self._last.discard(key)
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

"""Watches: the rows as they are, then what changes, read from the tables when the reader is ready for more.

Nothing is kept for a reader but the revision he has. A reader who is slow skips values that were replaced meanwhile; one
who takes nothing at all is cut off (callers.Gate), since gRPC itself holds his last message.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from meshd.api.v1 import watch_pb2
from meshd.errors import ListAgain
from meshd.state import Compacted, Mesh, Table
from meshd.state.table import Change

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Event = TypeVar("Event")
Response = TypeVar("Response")

# Of one message, and of one turn of the event loop: 1 to 2 ms.
EVENTS_MAX = 100


@dataclass(frozen=True, slots=True)
class Watch(Generic[K, V, Event, Response]):
    """How rows of ``table`` become messages.

    ``events`` renders changes that belong together in time, and leaves out those the reader did not ask for.
    ``respond(events, revision, synced)`` wraps them.
    """

    mesh: Mesh
    table: Table[K, V]
    events: Callable[[Sequence[Change[K, V]]], list[Event]]
    respond: Callable[[list[Event], int, bool], Response]

    async def stream(self, resume: watch_pb2.ResumePoint) -> AsyncIterator[Response]:
        """Messages for one reader, without end.

        Raises:
            ListAgain: there would be a gap.
        """
        self._check(resume)
        position = resume.revision
        if not position:
            # Where the list was read, not where it has been sent: what happened meanwhile follows as changes.
            position = self.mesh.revision
            for message in self._everything(position):
                yield message
        while True:
            reached = self.mesh.revision
            for message in self._since(position, reached):
                yield message
            position = reached
            # No await between comparing and waiting: nothing is missed.
            if reached == self.mesh.revision:
                await self.mesh.moved()

    def _check(self, resume: watch_pb2.ResumePoint) -> None:
        if resume.revision and resume.instance != self.mesh.instance:
            raise ListAgain("the revision is of another process")
        if resume.revision > self.mesh.revision:
            raise ListAgain(f"revision {resume.revision} is not reached yet (now {self.mesh.revision})")

    def _everything(self, revision: int) -> Iterator[Response]:
        # Unfinished lists cannot be resumed: their messages carry revision 0.
        rows = iter([Change(revision, key, value) for key, value in self.table.items()])
        while part := list(islice(rows, EVENTS_MAX)):
            yield self.respond(self.events(part), 0, False)
        yield self.respond([], revision, True)

    def _since(self, position: int, reached: int) -> Iterator[Response]:
        try:
            changes = self.table.changes(position)
        except Compacted as error:
            raise ListAgain(f"deletions after revision {position} are forgotten") from error
        for start in range(0, len(changes), EVENTS_MAX):
            events = self.events(changes[start : start + EVENTS_MAX])
            # A reader who stops inside a burst resumes before it: one revision may be split over messages.
            last = start + EVENTS_MAX >= len(changes)
            if events or last:
                yield self.respond(events, reached if last else position, True)

"""Between a reflector and who is told: removals pass only if they count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import structlog

from clustermesh.removals import Kept, Removals, Verdict, Word

log = structlog.get_logger()

RecordT = TypeVar("RecordT")
RecordT_contra = TypeVar("RecordT_contra", contravariant=True)


class Receiver(Protocol[RecordT]):
    """Who is told what is in force. Names are keys without the prefix."""

    def replace(self, records: Mapping[str, RecordT], kept: Mapping[str, Kept[RecordT]]) -> None:
        """``records`` are all that there are, and ``kept`` those that stand besides."""

    def put(self, name: str, record: RecordT) -> None:
        """This record is new or changed."""

    def keep(self, kept: Mapping[str, Kept[RecordT]]) -> None:
        """These are not there any more, and stand; of some it may have been told that they went."""

    def delete(self, names: Sequence[str], revision: int) -> None:
        """These records are gone since ``revision`` of the store."""

    def fresh(self) -> None:
        """What was told is all there is, and changes arrive."""

    def stale(self, reason: str) -> None:
        """Changes may be missing from now on."""


class Judge(Generic[RecordT]):
    """A reflector's outlet: tells ``receiver`` what follows from what is seen, by ``removals``.

    ``word`` is what the cluster's word is worth now, ``nodes_answer`` whether its nodes do. ``cluster`` and ``kind`` are for
    the log.
    """

    def __init__(
        self,
        removals: Removals[RecordT],
        receiver: Receiver[RecordT],
        word: Callable[[], Word],
        nodes_answer: Callable[[], bool],
        *,
        cluster: str,
        kind: str,
    ) -> None:
        self._removals = removals
        self._receiver = receiver
        self._word = word
        self._nodes_answer = nodes_answer
        self._log = log.bind(cluster=cluster, kind=kind)

    def replace(self, records: Mapping[str, RecordT]) -> None:
        """This is all there is."""
        verdict = self._removals.listed(records, self._word(), time.time(), nodes_answer=self._nodes_answer())
        self._receiver.replace(records, self._removals.kept)
        self._tell(verdict)

    def put(self, name: str, record: RecordT) -> None:
        """This record is new or changed."""
        self._removals.put(name, record)
        self._receiver.put(name, record)

    def delete(self, names: Sequence[str], revision: int) -> None:
        """These are not there any more."""
        verdict = self._removals.removed(names, self._word(), time.time(), nodes_answer=self._nodes_answer())
        if verdict.gone:
            self._receiver.delete(verdict.gone, revision)
        if verdict.kept:
            self._receiver.keep(verdict.kept)
        self._tell(verdict)

    def fresh(self) -> None:
        """What was told is all there is, and changes arrive."""
        self._receiver.fresh()

    def stale(self, reason: str) -> None:
        """Changes may be missing from now on."""
        self._receiver.stale(reason)

    def _tell(self, verdict: Verdict[RecordT]) -> None:
        held = sum(kept.held for kept in verdict.kept.values())
        if held:
            self._log.warning("removals held", records=held, until="put again, confirmed, or hold_s")
        if len(verdict.kept) > held:
            self._log.warning("removals do not count, records stale", records=len(verdict.kept) - held)

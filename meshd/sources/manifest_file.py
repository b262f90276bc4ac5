"""One manifest file from version to version: what it claims to be in force, and what is wrong with it.

A broken document leaves the last good version of its object in force. If not even the object can be told, every object
that the file named before and does not name now may be the broken one, so all of them stay.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from meshd.sources.documents import (
    Document,
    Item,
    json_documents,
    read_document,
    yaml_documents,
)
from meshd.sources.kubernetes.objects import Context, Value
from meshd.sources.kubernetes.types import ObjectName
from meshd.sources.yaml_values import Unreadable


class Problem(NamedTuple):
    """Something in a manifest that is not in force as it stands there. ``line`` counts from 1; 0: the file."""

    file: str
    line: int
    object_name: str
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.object_name}: {self.field}: {self.reason}"


class Claim(NamedTuple):
    """What a file says of one object; ``value`` None: that there is nothing to do for it on this node."""

    value: Value | None
    line: int


@dataclass(frozen=True, slots=True)
class FileVersion:
    """``unidentified``: some document does not tell which object it is, so what the file leaves out is not gone."""

    claims: dict[ObjectName, Claim] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    unidentified: bool = False
    # Digest of a document -> what became of it.
    read: dict[bytes, tuple[Item, ...]] = field(default_factory=dict)


LastGood = Callable[[ObjectName], Value | None]
EMPTY = FileVersion()


def next_version(
    file: str, text: str, before: FileVersion, context: Context, last_good: LastGood
) -> Generator[None, None, FileVersion]:
    """The version after ``before``. Yields to let others work.

    ``last_good`` is asked for an object that is broken now and that ``before`` does not know either.
    """
    documents: Iterable[Document | Unreadable]
    documents = json_documents(text) if file.endswith(".json") else yaml_documents(text)
    reading = _Reading(file, before, last_good)
    for document in documents:
        if isinstance(document, Unreadable):
            return unreadable(file, document.line + 1, document.reason, before)
        digest = document.digest()
        items = before.read.get(digest)
        if items is None:
            items = yield from read_document(document, context)
        reading.read[digest] = items
        for item in items:
            reading.take(item, document.line + 1)
        yield
    return reading.version()


def unreadable(file: str, line: int, reason: str, before: FileVersion) -> FileVersion:
    """The version after ``before`` of a file of which nothing can be read: everything it said stands."""
    problem = Problem(
        file, line, "file", "syntax" if line else "file", f"{reason}; what it said before stands"
    )
    return FileVersion(before.claims, (problem,), unidentified=True, read=before.read)


class _Reading:
    """A version in the making."""

    def __init__(self, file: str, before: FileVersion, last_good: LastGood) -> None:
        self._file = file
        self._before = before
        self._last_good = last_good
        self._claims: dict[ObjectName, Claim] = {}
        self._problems: list[Problem] = []
        self._unidentified = False
        self.read: dict[bytes, tuple[Item, ...]] = {}

    def take(self, item: Item, first_line: int) -> None:
        """Add what ``item``, of a document that begins in line ``first_line``, says."""
        line = first_line + item.line
        for fault in item.faults:
            self._problems.append(
                Problem(self._file, first_line + fault.line, fault.object_name, fault.field, fault.reason)
            )
        if item.name is None:
            self._unidentified = True
        elif item.name in self._claims:
            reason = f"line {self._claims[item.name].line} names it, too, and the first is in force"
            self._problems.append(Problem(self._file, line, str(item.name), "metadata.name", reason))
        elif item.usable:
            self._claims[item.name] = Claim(item.value, line)
        else:
            self._keep(item.name, line)

    def version(self) -> FileVersion:
        """What was taken so far, as a whole file."""
        if self._unidentified:
            for name, claim in self._before.claims.items():
                self._claims.setdefault(name, claim)
        return FileVersion(self._claims, tuple(self._problems), self._unidentified, self.read)

    def _keep(self, name: ObjectName, line: int) -> None:
        if name in self._before.claims:
            self._claims[name] = Claim(self._before.claims[name].value, line)
            return
        value = self._last_good(name)
        if value is not None:
            self._claims[name] = Claim(value, line)

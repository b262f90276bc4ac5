"""A lab's durable record: what it is and which pods it has, written before anything of it is made.

The record serves `status`, `exec` and `logs` of another process. Taking a lab down needs only its id (``down.py``), so a
record that was never finished, or is lost, holds nothing up.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from meshd.errors import MeshError
from meshd.lab.layout import Places
from meshd.lab.spec import LabSpec


class LabError(MeshError):
    """A lab cannot be made, found or changed; the sentence says which and why."""


class Pod(msgspec.Struct, frozen=True, rename="camel"):
    """One pod of a lab. ``host`` is its number within the node's pod addresses, never given twice in a lab's life."""

    cluster: str
    node: str
    namespace: str
    name: str
    host: int
    labels: dict[str, str]
    command: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.cluster}/{self.name}"


class Record(msgspec.Struct, rename="camel"):
    """``keeper``: what the lab is for: ``starting`` and ``demo`` end with the process that holds the lock, ``up`` stays."""

    id: str
    keeper: str
    spec: LabSpec
    pods: dict[str, Pod] = {}
    # Ids of the pods that are ready endpoints of their services.
    ready: set[str] = set()


def write(places: Places, record: Record) -> None:
    """Puts ``record`` in force, whole or not at all."""
    replace_file(places.record, msgspec.json.format(msgspec.json.encode(record)))


def read(places: Places) -> Record:
    """The record of a lab.

    Raises:
        LabError: there is none that can be read; `lab down` still works.
    """
    try:
        return msgspec.json.decode(places.record.read_bytes(), type=Record)
    except FileNotFoundError:
        raise LabError(
            f"lab {places.id} has no record: it was never finished; `meshctl lab down` removes it"
        ) from None
    except msgspec.MsgspecError as error:
        raise LabError(f"record {places.record}: {error}; `meshctl lab down` removes the lab") from error


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Writes ``path`` so that a reader sees the old or the new content; the temporary name begins with a dot."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


@contextmanager
def held(places: Places) -> Iterator[None]:
    """While inside, no other process changes the lab. The lock goes with the process, however that ends.

    Raises:
        LabError: another process holds it.
    """
    descriptor = _lock(places)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(places: Places) -> int:
    while True:
        places.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LabError(
                f"lab {places.id} is in the hands of another process (up, demo or down); end that first"
            ) from None
        if places.lock.exists() and places.lock.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        # Whoever held it took the lab down meanwhile, and this file with it.
        os.close(descriptor)


def is_held(places: Places) -> bool:
    """Whether a process has the lab in its hands right now."""
    try:
        descriptor = os.open(places.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def existing(run_root: Path, state_root: Path) -> list[str]:
    """Ids of all labs of which anything is left on this machine."""
    found = {entry.name for root in (run_root, state_root) if root.is_dir() for entry in root.iterdir()}
    return sorted(found)

"""What a step of the set-up was made from, so that it is made again when that changed and only then."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def key_of(root: Path, files: Iterable[Path], facts: Iterable[str]) -> str:
    """A digest of names and contents of ``files`` (below ``root``; where the tree stands is no part of it) and ``facts``.

    Every part goes in with its length, so that no two different lists give one stream of bytes.
    """
    digest = hashlib.sha256()
    parts = [
        part for path in sorted(files) for part in (str(path.relative_to(root)).encode(), path.read_bytes())
    ]
    for part in (*parts, *(fact.encode() for fact in facts)):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


def is_current(stamp: Path, key: str) -> bool:
    """Whether ``stamp`` was written for ``key``."""
    return stamp.exists() and stamp.read_text() == key


def write(stamp: Path, key: str) -> None:
    """Written after the step is done, at once: a step that was interrupted has no stamp."""
    stamp.parent.mkdir(parents=True, exist_ok=True)
    partial = stamp.with_suffix(".new")
    partial.write_text(key)
    partial.replace(stamp)

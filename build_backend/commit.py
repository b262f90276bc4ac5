"""The commit of a wheel: there is no git where it is installed, so the build notes it in the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshd.commit import NOTED, of_tree

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def noted(tree: Path = ROOT) -> Iterator[None]:
    """Meanwhile meshd/COMMIT names the commit of git tree ``tree``; what a source distribution brought is left alone.

    Gone afterwards: beside the sources it would be untrue from the next commit on.
    """
    if not (tree / ".git").exists():
        yield
        return
    note = tree / "meshd" / NOTED
    note.write_text(f"{of_tree(tree)}\n")
    try:
        yield
    finally:
        note.unlink(missing_ok=True)

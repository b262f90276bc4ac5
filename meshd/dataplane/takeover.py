"""What an earlier build left in maps of another layout, taken over while its programs go on.

Pins carry a hash of the layout, so a build whose layout is another finds its own maps missing and the other's beside them.
Rows that agents write are copied at once: nobody changes them while no agent runs, and hooks are not swapped before their
rows are there. What programs write is copied just before those programs are swapped, and once more behind that: what changed
meanwhile. Then the other pins go, so that there is one layout of each map again and no later start, of either build,
takes old rows for new ones. A start that finds both went on where the last one ended.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from meshd.errors import KernelError, LayoutError
from meshd.kernel.btf import Btf
from meshd.kernel.copying import Copied, Copying, copying
from meshd.kernel.maps import Map

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Former:
    """A map of another layout, at its pin. ``how`` None: its rows cannot be taken over, ``why`` says why."""

    name: str
    path: Path
    map: Map
    how: Copying | None
    why: str = ""


@dataclass(slots=True)
class Takeover:
    """``former``: of all maps, those named first were made last. ``fresh``: maps of ours that nobody has used yet. ``seen``:
    pin -> rows that were copied and will be asked for again."""

    former: list[Former] = field(default_factory=list)
    maps: Mapping[str, Map] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    seen: dict[Path, Mapping[bytes, bytes]] = field(default_factory=dict)

    def is_pending(self, names: Collection[str]) -> bool:
        """Whether rows of the maps ``names`` may still be in maps of another layout."""
        return any(each.name in names for each in self.former)

    def copy(self, names: Collection[str], *, again: bool = False) -> None:
        """Rows of the maps ``names``, in that order: all where nobody uses ours yet, else what changed since the last time.

        ``again``: programs go on writing the other maps, and it will be called once more.

        It blocks. What cannot be taken over is logged, and starts empty.
        """
        for name in names:
            for each in [each for each in self.former if each.name == name and each.how is not None]:
                started = time.monotonic()
                try:
                    copied = self._copied(each, again=again)
                except KernelError as error:
                    log.error("rows of another build cannot be taken over", map=name, reason=str(error))
                    continue
                log.info(
                    "rows of another build taken over",
                    map=name,
                    rows=len(copied.rows),
                    written=copied.written,
                    refused=copied.refused,
                    took_ms=round((time.monotonic() - started) * 1000),
                )

    def _copied(self, former: Former, *, again: bool) -> Copied:
        assert former.how is not None  # noqa: S101 - the caller looked
        own = self.maps[former.name]
        if former.name in self.fresh:
            self.fresh.discard(former.name)
            copied = former.how.all_rows(former.map, own)
        else:
            copied = former.how.changed_rows(former.map, own, self.seen.get(former.path, {}))
        self.seen.pop(former.path, None)
        if again:
            self.seen[former.path] = copied.rows
        return copied

    def finish(self, names: Collection[str]) -> None:
        """Our programs are in place: the other layouts of the maps ``names`` are unpinned."""
        for each in [each for each in self.former if each.name in names]:
            each.path.unlink(missing_ok=True)
            each.map.close()
            self.seen.pop(each.path, None)
            self.former.remove(each)

    def close(self) -> None:
        """Gives descriptors back; what is not finished yet is found by the next start."""
        for each in self.former:
            each.map.close()
        self.former.clear()


def is_needed(directory: Path, btf: Btf, names: Collection[str]) -> bool:
    """Whether maps called ``names`` are pinned in ``directory`` in layouts other than those of ``btf``."""
    return directory.is_dir() and any(_others(directory, btf, set(names) & btf.maps().keys()))


def find(directory: Path, btf: Btf, maps: Mapping[str, Map], reused: Collection[str]) -> Takeover:
    """What is pinned in ``directory`` of other layouts of ``maps``, which are pinned there themselves. ``reused``: those of
    ``maps`` that were there before."""
    made = Takeover(maps=maps, fresh=set(maps) - set(reused))
    for path in sorted(_others(directory, btf, maps), key=lambda each: each.stat().st_mtime, reverse=True):
        name = path.name.rpartition("_")[0]
        try:
            found = Map.open_pinned(path, name)
        except KernelError as error:
            log.error("map of another build cannot be opened", pin=str(path), reason=str(error))
            continue
        made.former.append(_former(name, path, found, btf))
    for each in made.former:
        if each.how is None and not each.map.per_cpu:
            log.warning("rows of another build cannot be taken over", map=each.name, reason=each.why)
    return made


def _others(directory: Path, btf: Btf, maps: Collection[str]) -> Iterator[Path]:
    own = {f"{name}_{btf.schema_hash(name)}" for name in maps}
    for path in directory.iterdir():
        # A pin's name is its map's, and a hash of the layout behind it (kernel/pins.py).
        if path.name.rpartition("_")[0] in maps and path.name not in own:
            yield path


def _former(name: str, path: Path, found: Map, btf: Btf) -> Former:
    if found.per_cpu:
        # Counters, which begin anew, and what a program only needs while it runs.
        return Former(name, path, found, None, "one value a CPU")
    try:
        return Former(name, path, found, copying(name, found, btf.maps()[name], btf))
    except (KernelError, LayoutError) as error:
        return Former(name, path, found, None, str(error))

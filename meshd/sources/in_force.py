"""Which file's version of an object is in force: of several that claim it, the first by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from meshd.sources.kubernetes.objects import Value
from meshd.sources.kubernetes.types import ObjectName
from meshd.sources.manifest_file import EMPTY, Claim, FileVersion, Problem


class Change(NamedTuple):
    """``before`` was in force, ``after`` is; None: nothing."""

    before: Value | None
    after: Value | None


class InForce:
    """The present version of every file, and the objects they claim."""

    def __init__(self) -> None:
        self._files: dict[str, FileVersion] = {}
        # The sorted names of the files that claim an object; nearly always one.
        self._claimants: dict[ObjectName, tuple[str, ...]] = {}
        self._contested: set[ObjectName] = set()
        self._troubled: set[str] = set()

    @property
    def files(self) -> list[str]:
        return list(self._files)

    def version(self, file: str) -> FileVersion:
        """The present version of ``file``; an empty one if it is not there."""
        return self._files.get(file, EMPTY)

    def value(self, name: ObjectName) -> Value | None:
        """What is in force for ``name``."""
        claimants = self._claimants.get(name)
        claim = self._files[claimants[0]].claims.get(name) if claimants else None
        return claim.value if claim else None

    def unidentified(self) -> list[Problem]:
        """A problem of each file of which some document does not tell which object it is."""
        versions = (self._files[file] for file in sorted(self._troubled))
        return [version.problems[0] for version in versions if version.unidentified]

    def problems(self) -> list[Problem]:
        """Everything that is not in force as it stands in its file, by file and line."""
        found = [problem for file in self._troubled for problem in self._files[file].problems]
        for name in self._contested:
            first, *others = self._claimants[name]
            for file in others:
                claim = self._files[file].claims.get(name)
                if claim is not None:  # None: an update is under way
                    reason = f"{first} names it, too, and wins"
                    found.append(Problem(file, claim.line, str(name), "metadata.name", reason))
        return sorted(found)

    def update(self, file: str, version: FileVersion | None) -> Iterator[Change | None]:
        """Take the next version of ``file`` (None: it is gone) and yield what that changes; drain it to its end.

        A None stands for an object that did not change, so that the caller can let others work meanwhile.
        """
        before, after = self.version(file), version or EMPTY
        self._files[file] = after
        if after.problems:
            self._troubled.add(file)
        else:
            self._troubled.discard(file)
        for name in [*before.claims, *(name for name in after.claims if name not in before.claims)]:
            old, new = before.claims.get(name), after.claims.get(name)
            if old is not None and new is not None and old.value is new.value:
                yield None
                continue
            was = self._winner(name, file, old)
            self._claim(name, file, claims=new is not None)
            yield Change(was, self._winner(name, file, new))
        if version is None:
            del self._files[file]

    def _winner(self, name: ObjectName, file: str, claim: Claim | None) -> Value | None:
        """What is in force for ``name`` while ``claim`` is what ``file`` says of it."""
        claimants = self._claimants.get(name)
        if not claimants:
            return None
        if claimants[0] != file:
            claim = self._files[claimants[0]].claims.get(name)
        return claim.value if claim else None

    def _claim(self, name: ObjectName, file: str, *, claims: bool) -> None:
        claimants = self._claimants.get(name, ())
        if claims and file not in claimants:
            claimants = tuple(sorted((*claimants, file)))
        elif not claims:
            claimants = tuple(other for other in claimants if other != file)
        if claimants:
            self._claimants[name] = claimants
        else:
            self._claimants.pop(name, None)
        if len(claimants) > 1:
            self._contested.add(name)
        else:
            self._contested.discard(name)

"""What was agreed that a kernel cannot run, against what a run left out: values only, no pytest.

``tests/left_out/KERNEL.txt`` is the agreement, one ``feature: reason`` a line. A run disagrees with it by leaving out what
it does not name (a gap that grew unseen), and by running what it names (a line not true any more hides the next real gap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class AgreementError(Exception):
    """A list of what cannot run is not readable as one; says file and line."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``reasons``: feature -> why it cannot run there; ``name``: the file, as shown to people."""

    name: str
    reasons: Mapping[str, str]


@dataclass(slots=True)
class Account:
    """What one run did: feature -> tests left out for it or run with it, and tests that skipped themselves."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    ran: dict[str, list[str]] = field(default_factory=dict)
    absences: dict[str, str] = field(default_factory=dict)
    skipped_themselves: dict[str, str] = field(default_factory=dict)
    long: int = 0


def read_agreement(path: Path, name: str) -> Agreement:
    """The agreement in ``path``, empty where there is no such file; ``#`` starts a comment line.

    Raises:
        AgreementError: a line without a reason, or a feature twice.
    """
    reasons: dict[str, str] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        feature, _, reason = (part.strip() for part in line.partition(": "))
        if not feature or not reason:
            raise AgreementError(f"{path}:{number}: expected 'feature: reason', found {line!r}")
        if feature in reasons:
            raise AgreementError(f"{path}:{number}: {feature} is there twice")
        reasons[feature] = reason
    return Agreement(name, reasons)


def path_for(release: str, directory: Path) -> Path:
    """The list for a kernel: the longest file name whose parts ``release`` starts with.

    Parts end at ``.`` or ``-``, so 6.1.txt is not for 6.18. Where there is no list, the path that one would have.
    """
    parts = _parts(release)
    fits = [path for path in directory.glob("*.txt") if parts[: len(_parts(path.stem))] == _parts(path.stem)]
    return max(fits, key=lambda path: len(path.stem), default=directory / f"{'.'.join(parts[:2])}.txt")


def _parts(release: str) -> list[str]:
    return release.replace("-", ".").split(".")


def disagreements(agreement: Agreement, account: Account, present: Callable[[str], bool]) -> Iterator[str]:
    """One sentence for each way in which the run and the agreement differ.

    ``present`` says of an agreed feature, whether or not a test needed it, that this machine has it.
    """
    for feature, tests in sorted(account.left_out.items()):
        if feature not in agreement.reasons:
            because = account.absences[feature]
            yield f"{feature} is not on {agreement.name}, but {count(tests)} left out for it: {because}"
    for feature in sorted(agreement.reasons):
        if ran := account.ran.get(feature):
            yield f"{feature} is on {agreement.name}, but {count(ran)} needed it and ran: {ran[0]}"
        elif present(feature):
            yield f"{feature} is on {agreement.name}, but this machine has it"
    for test, reason in sorted(account.skipped_themselves.items()):
        yield f"{test} skipped itself, naming no feature: {reason}"


def count(tests: list[str]) -> str:
    """``1 test`` or ``3 tests``."""
    return f"{len(tests)} test{'' if len(tests) == 1 else 's'}"

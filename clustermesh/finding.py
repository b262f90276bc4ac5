"""What a doctor finds: what is wrong, where, and what to do; and how people and programs are told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum

SHOWN = 3


class Severity(Enum):
    """``ERROR``: something does not work, or is open that must not be; ``WARNING``: it will, or may; ``INFORMATION``:
    nothing is wrong, and somebody should know."""

    ERROR = "error"
    WARNING = "warning"
    INFORMATION = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """``check``: which concern, in a word; ``where``: the object; ``remedy``: what to do."""

    severity: Severity
    check: str
    where: str
    problem: str
    remedy: str


def error(check: str, where: object, problem: str, remedy: str) -> Finding:
    """One that is an error."""
    return Finding(Severity.ERROR, check, str(where), problem, remedy)


def warning(check: str, where: object, problem: str, remedy: str) -> Finding:
    """One that is a warning."""
    return Finding(Severity.WARNING, check, str(where), problem, remedy)


def information(check: str, where: object, problem: str, remedy: str) -> Finding:
    """One that is no failure."""
    return Finding(Severity.INFORMATION, check, str(where), problem, remedy)


def is_wrong(found: Iterable[Finding]) -> bool:
    """Whether any of them is more than information."""
    return any(each.severity is not Severity.INFORMATION for each in found)


def ordered(found: Iterable[Finding]) -> list[Finding]:
    """Errors first, information last, else as they come; each once."""
    return sorted(dict.fromkeys(found), key=lambda each: list(Severity).index(each.severity))


def as_table(found: Sequence[Finding], looked_at: str) -> str:
    """Two lines for each; one if there is none. ``looked_at``: what, in a phrase."""
    lines = []
    for each in found:
        lines.append(f"{each.severity.value:<8} {each.check:<13} {each.where}: {each.problem}")
        lines.append(f"{'':<22} -> {each.remedy}")
    errors, warnings = (
        sum(each.severity is one for each in found) for one in (Severity.ERROR, Severity.WARNING)
    )
    counted = f"{errors} errors, {warnings} warnings" if is_wrong(found) else "nothing is wrong"
    return "\n".join([*lines, f"{looked_at}: {counted}"])


def as_documents(found: Iterable[Finding]) -> list[Mapping[str, str]]:
    """For JSON: severity, check, where, problem, remedy."""
    return [asdict(each) | {"severity": each.severity.value} for each in found]


def some(names: Iterable[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    named = list(names)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more

"""`make check`: every check runs, also after one failed; the closing lines say which did not pass.

python3 -m scripts.check [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
C_SOURCES = (
    "bpf/**/*.[ch]",
    "deploy/**/*.[ch]",
    "meshd/kernel/*.[ch]",
    "meshd/bench/*.[ch]",
    "tests/**/*.[ch]",
)
C_MADE = ("meshd/kernel/_libbpf.c",)


@dataclass(frozen=True, slots=True)
class Check:
    """``command`` runs in the root of the tree; status 0 means it found nothing."""

    name: str
    command: Sequence[str]
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check said, and how long it took."""

    check: Check
    passed: bool
    output: str
    seconds: float


def checks() -> list[Check]:
    """Cheap ones first, so that the first bad news is early."""
    python, c_sources = str(BIN / "python"), [str(path) for path in c_files()]
    mend = "make lint-fix"
    return [
        Check("ruff lint", (str(BIN / "ruff"), "check", "--quiet", "--output-format=concise", "."), mend),
        Check("ruff format", (str(BIN / "ruff"), "format", "--check", "--output-format=concise", "."), mend),
        Check("clang-format", (str(BIN / "clang-format"), "--dry-run", "--Werror", *c_sources), mend),
        Check("buf lint", (str(BIN / "buf"), "lint")),
        Check("generated files", (python, "proto/generate.py", "--check"), "python proto/generate.py"),
        Check("reference", (python, "-m", "scripts.reference", "--check"), "python -m scripts.reference"),
        Check("deploy", (python, "deploy/generate.py", "--check"), "python deploy/generate.py"),
        Check("import contracts", (str(BIN / "lint-imports"), "--no-cache", "--no-logo")),
        Check("mypy", (python, "-m", "mypy", "--strict", "--no-error-summary")),
    ]


def c_files() -> list[Path]:
    """The C that people write, relative to the root."""
    found = sorted(path.relative_to(ROOT) for pattern in C_SOURCES for path in ROOT.glob(pattern))
    return [path for path in found if str(path) not in C_MADE]


def outcomes(todo: Iterable[Check], root: Path = ROOT) -> list[Outcome]:
    """Runs ``todo`` one after the other, telling of each as it ends; a command that cannot be started has failed."""
    done = []
    for check in todo:
        outcome = _run(check, root)
        verdict = "ok" if outcome.passed else "FAILED"
        print(f"check: {check.name} ... {verdict} {outcome.seconds:.1f} s", flush=True)
        if not outcome.passed:
            print(outcome.output.rstrip(), flush=True)
        done.append(outcome)
    return done


def _run(check: Check, root: Path) -> Outcome:
    started = time.monotonic()
    try:
        done = subprocess.run(
            check.command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        return Outcome(check, False, f"{check.command[0]}: {error.strerror}: run `make setup`", 0.0)
    return Outcome(check, done.returncode == 0, done.stdout + done.stderr, time.monotonic() - started)


def summary(done: Sequence[Outcome]) -> str:
    """One line for all, and one for each that did not pass with what would mend it."""
    failed = [outcome for outcome in done if not outcome.passed]
    lines = [
        f"check: {len(done) - len(failed)} of {len(done)} passed in {sum(each.seconds for each in done):.1f} s"
    ]
    for outcome in failed:
        hint = f" (perhaps `{outcome.check.mend}`)" if outcome.check.mend else ""
        lines.append(f"check: {outcome.check.name} FAILED{hint}")
    return "\n".join(lines)


def main(names: Sequence[str]) -> int:
    """Status 1 when any check failed, 2 for a name that is none."""
    known = {check.name: check for check in checks()}
    if unknown := [name for name in names if name not in known]:
        print(f"check: no check is called {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    done = outcomes([known[name] for name in names] if names else known.values())
    print(summary(done))
    return 0 if all(outcome.passed for outcome in done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

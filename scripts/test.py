"""All tests, in two runs side by side, which take two processors less time than one after the other.

    .venv/bin/python -m scripts.test [ARGUMENTS OF PYTEST]

With arguments it is one run of pytest. Each run has names of its own and closes with what it left out. What the second one
prints comes when both have ended, and is in build/test meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "test" / "second.txt"
PYTEST = (sys.executable, "-m", "pytest", "--continue-on-collection-errors")
# What needs neither many processes nor an agent; it takes a third of the time that the others take.
SECOND = ("tests/bpf", "tests/etcd", "tests/scenarios", "tests/unit")


def others() -> list[str]:
    """The folders of all other tests, so that a new one is forgotten by nobody."""
    found = (each for each in (ROOT / "tests").iterdir() if any(each.rglob("test_*.py")))
    return sorted({f"tests/{each.name}" for each in found if each.is_dir()} - set(SECOND))


def side_by_side(first: Sequence[str], second: Sequence[str], output: Path) -> int:
    """Runs both commands; 0: both succeeded, else the status of the first that did not.

    What the second one prints goes to ``output``, and is shown when both have ended. A request to end goes to both.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for each in running:
            each.send_signal(number)

    # Of a terminal's Ctrl-C both hear by themselves, and hearing of it twice would keep them from tidying up.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        with output.open("wb") as file:
            running.append(
                subprocess.Popen(second, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
            )
        running.insert(0, subprocess.Popen(first))
        statuses = [each.wait() for each in running]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.stdout.flush()
    sys.stdout.buffer.write(output.read_bytes())
    sys.stdout.flush()
    return next((status for status in statuses if status != 0), 0)


def main(arguments: Sequence[str]) -> int:
    """Status as pytest's."""
    if arguments:
        os.execv(PYTEST[0], [*PYTEST, *arguments])  # noqa: S606 - pytest in our place
    print(
        f"{', '.join(SECOND)} run beside the others; what they print comes at the end, from {OUTPUT}",
        flush=True,
    )
    status = side_by_side([*PYTEST, *others()], [*PYTEST, "-p", "no:cacheprovider", *SECOND], OUTPUT)
    print("tests: all passed" if status == 0 else "tests: FAILED; each of the two runs says above which")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

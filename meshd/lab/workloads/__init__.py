"""Programs that run in a lab's pods: real processes that know nothing of meshd. Standard library only, to start quickly."""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAMS = {
    "rebel-base": Path(__file__).with_name("rebel_base.py"),
    "x-wing": Path(__file__).with_name("x_wing.py"),
}

# Those that say READY=1 when they serve (sd_notify(3)).
SAY_READY = frozenset({"rebel-base"})


def resolve(command: tuple[str, ...]) -> list[str]:
    """The argv of ``command``: a built-in program by its name, or one of the machine.

    -I and -S: neither site-packages nor the caller's environment, which halves the start of a Python process.
    """
    program = PROGRAMS.get(command[0])
    if program is None:
        return list(command)
    return [sys.executable, "-I", "-S", str(program), *command[1:]]

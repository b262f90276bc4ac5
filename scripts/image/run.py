"""A program of somebody else is run, and what it said when it failed is what the user sees."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class ImageError(Exception):
    """The image could not be made; the text says why and what to do. What was made before is as it was."""


def run(
    command: Sequence[str], *, directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """The standard output of ``command``.

    Raises:
        ImageError: it could not be started or failed; carries its last lines.
    """
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise ImageError(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ImageError(f"{' '.join(command[:6])} failed:\n  {last}")
    return done.stdout

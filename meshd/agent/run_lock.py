"""One agent a run directory: a second would fight the first over the same pins."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from meshd.errors import ConfigError


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Holds ``run_dir``/meshd.pid for the process; the kernel lets go of it however the process ends.

    Raises:
        ConfigError: another agent holds it (named by its process id), or the directory cannot be written.
    """
    path = run_dir / "meshd.pid"
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(f"run directory {run_dir} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            raise ConfigError(f"another meshd (process {other}) runs with run directory {run_dir}") from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(file)

"""One agent for each run directory, state directory and set of pins: a second would fight the first over the same rows."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from meshd.config import Config
from meshd.errors import ConfigError


@contextlib.contextmanager
def held(config: Config, *, create: bool) -> Iterator[None]:
    """Holds what ``config`` says is this agent's, for the process; the kernel lets go of it however the process ends.

    ``create``: makes the directories that are not there; else nobody can be using them, and they are passed over.

    Raises:
        ConfigError: another agent holds one of them (it is named), or one cannot be used.
    """
    with contextlib.ExitStack() as locks:
        if create or config.run_dir.is_dir():
            locks.enter_context(pid_file(config.run_dir))
        for option, directory in (("stateDir", config.state_dir), ("bpffs", config.bpffs)):
            if create or directory.is_dir():
                locks.enter_context(sole_use(directory, option))
        yield


@contextlib.contextmanager
def pid_file(run_dir: Path) -> Iterator[None]:
    """Holds ``run_dir``/meshd.pid, which says who does.

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


@contextlib.contextmanager
def sole_use(directory: Path, option: str) -> Iterator[None]:
    """Holds ``directory`` itself: in a bpffs there can be no lock file. ``option`` names it in the configuration.

    Raises:
        ConfigError: another agent holds it, or it cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{option} {directory} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another meshd runs with {option} {directory}: every agent needs one of its own"
            ) from None
        yield
    finally:
        os.close(fd)

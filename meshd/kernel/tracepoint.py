"""Programs on tracepoints, as links that can be pinned.

The number of a tracepoint is a file of tracefs, which need not be mounted anywhere: here it is opened without a place of its
own (fsopen(2), fsmount(2)), so that nobody sees a mount come and go.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

from meshd.errors import KernelError
from meshd.kernel.links import Link
from meshd.kernel.program import Program

_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
# The same on every architecture.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
_CLOSE_ON_EXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
# linux/perf_event.h
_PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE, _PERF_FLAG_FD_CLOEXEC = 2, 64, 8
_EVERY_PROCESS, _NO_GROUP = -1, -1
_BPF_PERF_EVENT = 41  # which Debian 12's headers call so only in an enum of their own

_libc = ctypes.CDLL(None, use_errno=True)


def attach(program: Program, category: str, name: str) -> Link:
    """A link of the program to the tracepoint ``category``/``name``, on all CPUs.

    Raises:
        KernelError: there is no such tracepoint, no tracefs, or it may not be used.
    """
    what = f"tracepoint {category}/{name}"
    attributes = struct.pack("=IIQ", _PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE, _number(category, name))
    number = _PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise KernelError("open", what, 0, f"perf_event_open is not known on {platform.machine()}")
    # An event of one CPU is enough: programs run wherever the tracepoint is passed.
    event = _called(
        "open", what, number, attributes.ljust(_PERF_ATTR_SIZE, b"\0"), _EVERY_PROCESS, 0, _NO_GROUP,
        _PERF_FLAG_FD_CLOEXEC,
    )  # fmt: skip
    try:
        return Link.create(program.fd, event, _BPF_PERF_EVENT, f"{program.name} to {what}")
    finally:
        os.close(event)


def has_category(category: str) -> bool:
    """Whether there are tracepoints of this category: the kernel was built with what they are in.

    Raises:
        KernelError: no tracefs, or it may not be used.
    """
    tracefs = _tracefs()
    try:
        os.stat(Path("events", category), dir_fd=tracefs)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise KernelError("find", f"tracepoints of {category}", error.errno or 0) from error
    finally:
        os.close(tracefs)
    return True


def _number(category: str, name: str) -> int:
    tracefs = _tracefs()
    try:
        found = os.open(Path("events", category, name, "id"), os.O_RDONLY | os.O_CLOEXEC, dir_fd=tracefs)
        try:
            return int(os.read(found, 32))
        finally:
            os.close(found)
    except OSError as error:
        raise KernelError("find", f"tracepoint {category}/{name}", error.errno or 0) from error
    finally:
        os.close(tracefs)


def _tracefs() -> int:
    """A descriptor of its root."""
    context = _called("open", "tracefs", _FSOPEN, b"tracefs\0", _CLOSE_ON_EXEC)
    try:
        _called("open", "tracefs", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _called("open", "tracefs", _FSMOUNT, context, _CLOSE_ON_EXEC, 0)
    finally:
        os.close(context)


def _called(operation: str, what: str, number: int, *arguments: bytes | int | None) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *(_c(each) for each in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise KernelError(operation, what, code)
    return result


def _c(argument: bytes | int | None) -> object:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument

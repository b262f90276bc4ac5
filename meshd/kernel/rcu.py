"""Waiting until every BPF program that is running now has ended.

Programs run inside RCU read-side sections, and membarrier(MEMBARRIER_CMD_GLOBAL) returns after a full RCU grace period
(kernel/sched/membarrier.c: it is synchronize_rcu()). The kernel offers nothing more direct to user space.
"""

from __future__ import annotations

import ctypes
import os
import platform

from meshd.errors import KernelError

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}
_CMD_GLOBAL = 1

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_programs() -> None:
    """Blocks for some tens of ms, without the GIL; call it on a worker thread.

    Raises:
        KernelError: the kernel refuses (nohz_full: EINVAL) or this architecture's call number is not known.
    """
    number = _MEMBARRIER.get(platform.machine())
    if number is None:
        raise KernelError(
            "wait for", "running programs", 0, f"membarrier is not known on {platform.machine()}"
        )
    if _libc.syscall(number, _CMD_GLOBAL, 0, 0) != 0:
        code = ctypes.get_errno()
        raise KernelError("wait for", "running programs", code, os.strerror(code))

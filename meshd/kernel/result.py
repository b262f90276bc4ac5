"""How a call of libbpf or libc says no, turned into one KernelError."""

from __future__ import annotations

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib

# The kernel's own "not supported", which no user-space header names.
ENOTSUPP = 524

lib.meshd_log_install()


def checked(result: int, operation: str, object_name: str, detail: str = "") -> int:
    """``result`` unless it is negative, which in libbpf >= 1.0 is -errno.

    Raises:
        KernelError: with operation, object and errno.
    """
    if result < 0:
        raise KernelError(operation, object_name, -result, detail)
    return result


def checked_libc(result: int, operation: str, object_name: str) -> int:
    """The same for libc, which returns -1 and leaves the reason in errno."""
    if result < 0:
        raise KernelError(operation, object_name, ffi.errno)
    return result


def take_log() -> str:
    """libbpf's warnings of this thread since the last call."""
    buffer = ffi.new("char[]", 32 * 1024)
    taken = lib.meshd_log_take(buffer, len(buffer))
    return bytes(ffi.buffer(buffer, taken)).decode(errors="replace").strip()

"""Network namespaces. Entering one happens on a thread made for it: the thread that owns the state never
moves, and no failure can leave it elsewhere, because the worker ends inside the namespace it entered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from meshd.errors import KernelError
from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.result import checked_libc

T = TypeVar("T")

# The socket option that reads the namespace's cookie, which programs see as bpf_get_netns_cookie; not in
# Python's socket.
SO_NETNS_COOKIE = 71
# In a container /proc/sys is read-only and no runtime lets anything be mounted over it, so deploy/kubernetes puts the host's
# here. Below net it is always that of the reader's namespace.
HOST_SYSCTLS = Path("/host/proc/sys")
SYSCTLS = HOST_SYSCTLS if (HOST_SYSCTLS / "net").is_dir() else Path("/proc/sys")

# Started as they are needed, then kept: to start one takes as long as some of what is done on it.
_travellers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="netns")


class Netns:
    """An open network namespace; it lives at least as long as this descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes ownership of ``fd``."""
        self.fd = fd
        self.name = name

    @classmethod
    def open(cls, path: Path, name: str | None = None) -> Netns:
        """The namespace at ``path``: a bind mount such as /run/netns/NAME, or /proc/PID/ns/net.

        Raises:
            KernelError: nothing is there.
        """
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), name or str(path))
        except OSError as error:
            raise KernelError("open", f"network namespace {path}", error.errno or 0) from error

    @classmethod
    def of_process(cls, pid: int) -> Netns:
        """The namespace process ``pid`` is in."""
        return cls.open(Path(f"/proc/{pid}/ns/net"), f"pid {pid}")

    @classmethod
    def current(cls) -> Netns:
        """The namespace of the calling thread."""
        return cls.open(Path("/proc/thread-self/ns/net"), "current")

    @classmethod
    def create(cls, name: str = "anonymous") -> Netns:
        """A new namespace without a name in the file system, with its loopback down; gone with its last
        user."""

        def unshare() -> Netns:
            checked_libc(lib.unshare(lib.CLONE_NEWNET), "create", f"network namespace {name}")
            return cls.open(Path("/proc/thread-self/ns/net"), name)

        return on_thread(unshare)

    @classmethod
    def create_named(cls, path: Path) -> Netns:
        """A new namespace that stays at ``path`` until `remove_named`, where `ip netns` and nsenter can use
        it.

        Raises:
            KernelError: ``path`` exists already (EEXIST) or cannot be mounted on; nothing is left behind.
        """
        netns = cls.create(path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        except OSError as error:
            netns.close()
            raise KernelError("create", f"network namespace {path}", error.errno or 0) from error
        source = f"/proc/self/fd/{netns.fd}".encode()
        if lib.mount(source, os.fsencode(path), b"none", lib.MS_BIND, ffi.NULL) < 0:
            code = ffi.errno
            netns.close()
            path.unlink()
            raise KernelError("mount", f"network namespace {path}", code)
        return netns

    def run(self, function: Callable[[], T]) -> T:
        """What ``function`` returns, or raises, when called inside the namespace on a thread of its own.

        Sockets made there belong to the namespace for good and may be used from any thread. /proc/sys/net is
        the namespace's; for the rest of /proc/net read /proc/thread-self/net.
        """

        def inside() -> T:
            self.enter()
            return function()

        return on_thread(inside)

    def enter(self) -> None:
        """The calling thread is in the namespace until it ends: for what `apart` or `on_thread` runs.

        Raises:
            KernelError: refused; the thread is where it was.
        """
        checked_libc(lib.setns(self.fd, lib.CLONE_NEWNET), "enter", f"network namespace {self.name}")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this namespace."""
        return self.run(lambda: socket.socket(family, kind, protocol))

    def cookie(self) -> int:
        """The 64-bit number programs know this namespace by; never reused while the machine is up."""
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)

    def inode(self) -> int:
        """The number in `net:[...]`, equal for two descriptors of one namespace."""
        return os.fstat(self.fd).st_ino

    def write_sysctl(self, key: str, value: str) -> None:
        """Sets a net sysctl of this namespace, named as below /proc/sys: ``net/ipv4/ip_forward``."""

        def write() -> None:
            try:
                Path(SYSCTLS, key).write_text(value)
            except OSError as error:
                raise KernelError("set", f"sysctl {key} in {self.name}", error.errno or 0) from error

        self.run(write)

    def read_sysctl(self, key: str) -> str:
        """The value of a net sysctl of this namespace."""
        return self.run(lambda: Path(SYSCTLS, key).read_text().strip())

    def close(self) -> None:
        """Gives the descriptor back; may be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def remove_named(path: Path) -> None:
    """Takes the name away; the namespace goes with its last process, socket or descriptor. Gone already is no
    error."""
    if lib.umount2(os.fsencode(path), lib.MNT_DETACH) < 0 and ffi.errno not in (errno.EINVAL, errno.ENOENT):
        raise KernelError("remove", f"network namespace {path}", ffi.errno)
    path.unlink(missing_ok=True)


def on_thread(function: Callable[[], T]) -> T:
    """What ``function`` returns or raises, run to its end on a fresh thread."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # handed to the caller as it is
            errors.append(error)

    worker = threading.Thread(target=work, name="netns")
    worker.start()
    worker.join()
    if errors:
        raise errors[0]
    return results[0]


async def apart(function: Callable[[], T]) -> T:
    """What ``function`` returns or raises, run to its end on a thread that may enter any namespace, also when the caller is
    cancelled.

    The thread is sent back afterwards, so that it keeps no namespace alive. Should that fail, it does no harm where it is:
    nothing runs on such threads but what enters a namespace first.
    """

    def work() -> T:
        try:
            return function()
        finally:
            with contextlib.suppress(KernelError), Netns.open(Path("/proc/self/ns/net"), "own") as home:
                home.enter()

    return await asyncio.get_running_loop().run_in_executor(_travellers, work)

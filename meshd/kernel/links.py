"""Links: what keeps a program attached. A pinned link outlives the process, and `update` swaps its program
atomically, so a restart or an upgrade never detaches anything."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from meshd.kernel._libbpf import ffi, lib
from meshd.kernel.result import checked

# BPF_F_BEFORE, which Debian 12's headers lack; before nobody in particular it means before all.
_BEFORE = 1 << 3


class AttachType(IntEnum):
    """BPF_* attach types that links are made for; tcx has no name in Debian 12's headers."""

    CGROUP_INET_INGRESS = lib.BPF_CGROUP_INET_INGRESS
    CGROUP_INET_EGRESS = lib.BPF_CGROUP_INET_EGRESS
    CGROUP_SOCK_CREATE = lib.BPF_CGROUP_INET_SOCK_CREATE
    CGROUP_SOCK_RELEASE = lib.BPF_CGROUP_INET_SOCK_RELEASE
    CGROUP_SOCK_OPS = lib.BPF_CGROUP_SOCK_OPS
    CGROUP_CONNECT4 = lib.BPF_CGROUP_INET4_CONNECT
    CGROUP_CONNECT6 = lib.BPF_CGROUP_INET6_CONNECT
    CGROUP_SENDMSG4 = lib.BPF_CGROUP_UDP4_SENDMSG
    CGROUP_SENDMSG6 = lib.BPF_CGROUP_UDP6_SENDMSG
    CGROUP_RECVMSG4 = lib.BPF_CGROUP_UDP4_RECVMSG
    CGROUP_RECVMSG6 = lib.BPF_CGROUP_UDP6_RECVMSG
    CGROUP_GETPEERNAME4 = lib.BPF_CGROUP_INET4_GETPEERNAME
    CGROUP_GETPEERNAME6 = lib.BPF_CGROUP_INET6_GETPEERNAME
    CGROUP_GETSOCKOPT = lib.BPF_CGROUP_GETSOCKOPT
    CGROUP_SETSOCKOPT = lib.BPF_CGROUP_SETSOCKOPT
    SK_LOOKUP = lib.BPF_SK_LOOKUP
    XDP = lib.BPF_XDP
    TCX_INGRESS = 46
    TCX_EGRESS = 47


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a link. ``cgroup_id`` and ``ifindex`` are 0 where the link is of another kind,
    or where its cgroup or device is gone (the link is then attached to nothing)."""

    link_id: int
    program_id: int
    attach_type: int
    cgroup_id: int
    ifindex: int


class Link:
    """An open link. Closing the last descriptor of a link that is not pinned detaches its program."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes ownership of ``fd``."""
        self.fd = fd
        self.name = name

    @classmethod
    def create(
        cls, program_fd: int, target: int, attach_type: int, name: str, *, first: bool = False
    ) -> Link:
        """Attaches a program: ``target`` is the descriptor of a cgroup or network namespace, or for tcx and
        XDP the ifindex of a device in the calling thread's namespace. ``first``: before all tcx links that are there.

        Raises:
            KernelError: attach type unknown to this kernel or not the program's (EINVAL), target gone
                (ENODEV, EBADF).
        """
        opts = ffi.new("struct bpf_link_create_opts *", {"flags": _BEFORE if first else 0})
        opts.sz = ffi.sizeof(opts[0])
        return cls(checked(lib.bpf_link_create(program_fd, target, attach_type, opts), "attach", name), name)

    @classmethod
    def open_pinned(cls, path: Path) -> Link | None:
        """The link pinned at ``path``, None where there is none."""
        fd = lib.bpf_obj_get(os.fsencode(path))
        if fd == -errno.ENOENT:
            return None
        return cls(checked(fd, "open", f"link {path}"), path.name)

    def update(self, program_fd: int) -> None:
        """Replaces the program between two packets or calls; refused (EINVAL) for another program or attach
        type."""
        checked(
            lib.bpf_link_update(self.fd, program_fd, ffi.NULL), "replace the program of", f"link {self.name}"
        )

    def pin(self, path: Path) -> None:
        """Keeps the link at ``path`` in a bpffs, whose names may not contain a dot."""
        checked(lib.bpf_obj_pin(self.fd, os.fsencode(path)), "pin", f"link {self.name} at {path}")

    def detach(self) -> None:
        """Takes the program off at once, whoever else holds the link; a link that is off already stays so."""
        result = lib.bpf_link_detach(self.fd)
        if result != -errno.ENOLINK:
            checked(result, "detach", f"link {self.name}")

    def info(self) -> LinkInfo:
        """Program, attach type and target as the kernel has them now."""
        raw = ffi.new("struct meshd_link_info *")
        checked(lib.meshd_link_info(self.fd, raw), "inspect", f"link {self.name}")
        return LinkInfo(raw.id, raw.prog_id, raw.attach_type, raw.cgroup_id, raw.ifindex)

    def close(self) -> None:
        """Gives the descriptor back; may be repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def attach_cgroup(program_fd: int, cgroup: Path, attach_type: int, name: str) -> Link:
    """A link of the program to the cgroup v2 directory ``cgroup`` and everything below it."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return Link.create(program_fd, fd, attach_type, name)
    finally:
        os.close(fd)

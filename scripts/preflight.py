"""Can this machine run a mesh at all? Asked before minutes of set-up, answered in one sentence that says what to do.

Each ``*_refusal`` returns that sentence, or ``None`` where all is well. What the kernel can do is found out by doing it: the
configuration of a kernel says nothing about what a container around us forbids.

    python3 -m scripts.preflight
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

# Numbers of linux/bpf.h and asm/unistd.h; there is no library to take them from yet.
SYSCALL_BPF = {"x86_64": 321, "aarch64": 280}
BPF_PROG_LOAD = 5
BPF_PROG_TYPE_CGROUP_SOCK_ADDR = 18
BPF_CGROUP_INET4_CONNECT = 10
# r0 = 1; exit: a connect hook that lets every connection pass.
PASS = bytes.fromhex("b7000000010000009500000000000000")

NEEDS_MACHINE = "use a machine or a virtual machine of its own, or a container started with --privileged"


class ProgLoad(ctypes.Structure):
    """The head of ``union bpf_attr`` for BPF_PROG_LOAD, up to the last field used here."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log", ctypes.c_uint64 * 2),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    )


def root_refusal() -> str | None:
    """Namespaces, cgroups and BPF are root's."""
    if os.geteuid() == 0:
        return None
    return "this needs root for network namespaces, cgroups and BPF: run it with sudo (`make test` works without)"


def bpf_refusal() -> str | None:
    """Loads the smallest connect hook, which needs BPF, CONFIG_CGROUP_BPF and the capability to use them."""
    machine = platform.machine()
    if machine not in SYSCALL_BPF:
        return f"meshd runs on x86_64 and aarch64, not on {machine}: use a machine of one of these"
    instructions, license_text = ctypes.create_string_buffer(PASS), ctypes.create_string_buffer(b"GPL")
    attributes = ProgLoad(
        prog_type=BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt=len(PASS) // 8,
        insns=ctypes.addressof(instructions),
        license=ctypes.addressof(license_text),
        expected_attach_type=BPF_CGROUP_INET4_CONNECT,
    )
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    fd = system_call(SYSCALL_BPF[machine], BPF_PROG_LOAD, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd >= 0:
        os.close(fd)
        return None
    return _meaning(ctypes.get_errno())


def _meaning(number: int) -> str:
    release = platform.release()
    if number == errno.ENOSYS:
        return f"kernel {release} has no BPF: boot one that is built with CONFIG_BPF_SYSCALL, as Debian's are"
    if number == errno.EINVAL:
        return f"kernel {release} has no BPF at socket hooks: boot one that is built with CONFIG_CGROUP_BPF, as Debian's are"
    if number in {errno.EPERM, errno.EACCES}:
        return f"BPF is forbidden here, also for this root (bpf() answers {errno.errorcode[number]}): {NEEDS_MACHINE}"
    return f"the kernel refuses a BPF program (bpf() answers {errno.errorcode.get(number, number)}): {NEEDS_MACHINE}"


def bpffs_refusal() -> str | None:
    """Pinned programs and maps live in bpffs; where it is mounted is the agent's own affair."""
    kinds = [line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()]
    return (
        None
        if "bpf" in kinds
        else "this kernel has no bpf file system: boot one that is built with CONFIG_BPF_SYSCALL"
    )


def cgroup_refusal() -> str | None:
    """Socket hooks are attached to cgroups v2, mounted anywhere (also beside v1, "hybrid") and writable."""
    for mount in Path("/proc/self/mounts").read_text().splitlines():
        _, directory, kind, *_ = mount.split(" ")
        if kind == "cgroup2":
            writable = os.access(directory, os.W_OK)
            return None if writable else f"cgroup v2 at {directory} cannot be written: {NEEDS_MACHINE}"
    where = "/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup").is_dir() else "/mnt/cgroup"
    return f"no cgroup v2 is mounted: run `mkdir -p {where} && mount -t cgroup2 none {where}`"


def refusals() -> Iterator[str]:
    """Everything that stands in the way, the cause before its consequences."""
    if sys.platform != "linux":
        yield f"meshd needs Linux, this is {sys.platform}: use a Debian 12 machine"
        return
    for ask in (root_refusal, cgroup_refusal, bpffs_refusal, bpf_refusal):
        if (sentence := ask()) is not None:
            yield sentence


def main() -> int:
    """Status 1 and the first refusal where there is one; silent where all is well."""
    for sentence in refusals():
        sys.stderr.write(f"meshd: {sentence}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

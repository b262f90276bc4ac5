"""Whether this machine can carry a lab, said in one sentence before anything is made."""

from __future__ import annotations

import os
import shutil

from meshd.errors import ConfigError, KernelError
from meshd.kernel import cgroup
from meshd.lab import etcd

PROGRAMS = {"nsenter": "util-linux", "nft": "nftables"}


def require() -> None:
    """Returns if a lab can be made here.

    Raises:
        ConfigError: one sentence: what is missing and what to do.
    """
    if os.geteuid() != 0:
        raise ConfigError("a lab makes network namespaces and loads BPF programs: run it as root")
    cgroup.find_mount()
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise ConfigError(f"{program} is not installed: `apt-get install {package}`")
    etcd.binary()
    _require_bpf()


def _require_bpf() -> None:
    from meshd.kernel._libbpf import lib  # noqa: PLC0415 - loads libbpf, after the plain reasons
    from meshd.kernel.maps import Map  # noqa: PLC0415

    try:
        Map.create(lib.BPF_MAP_TYPE_HASH, "meshd_lab", 4, 4, 1).close()
    except KernelError as error:
        raise ConfigError(
            f"this kernel refuses BPF maps ({os.strerror(error.errno)}): use one with CONFIG_BPF_SYSCALL"
        ) from error

"""Whether this machine can carry a lab, said in one sentence before anything is made."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from meshd.errors import ConfigError
from meshd.kernel import cgroup
from meshd.lab import etcd

PROGRAMS = {"nsenter": "util-linux", "mount": "mount", "umount": "mount"}


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
    from meshd.kernel import features  # noqa: PLC0415 - loads libbpf, after the plain reasons

    with tempfile.TemporaryDirectory(prefix="meshd-lab-") as directory:
        features.require(Path(directory))

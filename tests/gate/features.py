"""What tests may need of a machine, each found out by trying it, and only once a run.

``PROBES`` maps a feature's name to a function that returns why it is absent, or ``None`` where it is there. Whatever else
the kernel layer probes (``meshd.kernel.features``) may be named as well, and ``command:NAME`` is a program on PATH. One
name is one fact: where both know a name, the probe here wins, because a test of the kernel layer must not be
left out by a mistake of the kernel layer.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.kubernetes import components
from scripts.preflight import bpf_refusal, cgroup_refusal

TCP_ULP = 31  # linux/tcp.h
IO_URING_SETUP = 425  # asm-generic/unistd.h

Probe = Callable[[], str | None]


class UnknownFeature(Exception):
    """A test needs a feature that nobody knows how to look for."""


@functools.cache
def absence(feature: str) -> str | None:
    """Why ``feature`` is not there, as one phrase, or ``None`` where it is.

    Raises:
        UnknownFeature: neither a probe here, nor one of the kernel layer, nor ``command:NAME``.
    """
    if feature.startswith("command:"):
        return _command(feature.removeprefix("command:"))
    if feature in PROBES:
        return PROBES[feature]()
    found = _of_the_kernel_layer()
    if feature not in found:
        known = ", ".join(sorted({*PROBES, *found}))
        raise UnknownFeature(f"no probe for {feature!r}; known: {known}, command:NAME")
    return found[feature]


@functools.cache
def _of_the_kernel_layer() -> Mapping[str, str | None]:
    """Names and absences from ``meshd.kernel.features``; empty where root or the extension is missing."""
    if _root() is not None:
        return {}
    try:
        features = importlib.import_module("meshd.kernel.features")
    except ImportError:
        return {}
    return {
        feature.name: None if feature.present else (feature.reason or "not on this kernel")
        for feature in features.probe()
    }


def _command(name: str) -> str | None:
    return None if shutil.which(name) else f"no {name} on PATH"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _in_new_netns(*command: str) -> Probe:
    """A probe that runs ``command`` in a network namespace of its own, which goes with it."""

    def probe() -> str | None:
        missing = _root() or _command("unshare") or _command(command[0])
        if missing:
            return missing
        run = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, check=False)
        return None if run.returncode == 0 else f"{' '.join(command)}: {run.stderr.strip().splitlines()[0]}"

    return probe


def _ktls() -> str | None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        try:
            client.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError as error:
            return f"setsockopt(TCP_ULP, tls) answers {errno.errorcode.get(error.errno or 0)}"
    return None


def _ipvs() -> str | None:
    return None if Path("/proc/net/ip_vs").exists() else "no /proc/net/ip_vs"


def _ipv6() -> str | None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return None
    except OSError as error:
        return f"bind to ::1 answers {errno.errorcode.get(error.errno or 0)}"


def _io_uring() -> str | None:
    # 8 requests, and no parameters: what answers EFAULT looked at them.
    ctypes.CDLL(None, use_errno=True).syscall(IO_URING_SETUP, 8, None)
    code = ctypes.get_errno()
    return None if code == errno.EFAULT else f"io_uring_setup() answers {errno.errorcode.get(code)}"


def _libfuzzer() -> str | None:
    found = importlib.util.find_spec("atheris")
    return (
        None
        if found
        else f"no wheel of atheris for Python {platform.python_version()} on {platform.machine()}"
    )


PROBES: Mapping[str, Probe] = {
    "root": _root,
    "bpf": bpf_refusal,
    "cgroup_v2": cgroup_refusal,
    "etcd": functools.partial(_command, "etcd"),
    "ipv6": _ipv6,
    "veth": _in_new_netns("ip", "link", "add", "probe0", "type", "veth"),
    "vxlan": _in_new_netns("ip", "link", "add", "probe0", "type", "vxlan", "external", "dstport", "4789"),
    "wireguard": _in_new_netns("ip", "link", "add", "probe0", "type", "wireguard"),
    "netkit": _in_new_netns("ip", "link", "add", "probe0", "type", "netkit"),
    "netem": _in_new_netns("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"),
    "fq": _in_new_netns("tc", "qdisc", "add", "dev", "lo", "root", "fq"),
    "ktls": _ktls,
    "io_uring": _io_uring,
    "ipvs": _ipvs,
    "libfuzzer": _libfuzzer,
    "kubernetes": components.absence,
}

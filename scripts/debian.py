"""Debian packages: which are needed for what, and how to install them without a single service starting.

apt starts the servers it installs. Here nothing that was stopped or absent on the machine runs afterwards: a policy-rc.d
answers "no" meanwhile, and what the new packages enabled for the next boot is disabled again. The policy-rc.d that was there
is put back as it was, also after a failure; after a kill -9, by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

BUILD = {
    "python3-venv": "the virtual environment",
    "python3-dev": "Python.h for the cffi extension",
    "gcc": "compiles the cffi extension",
    "libc6-dev": "C headers, and the kernel's through linux-libc-dev",
    "libbpf-dev": "libbpf and bpf_helpers.h",
}
LAB = {
    "etcd-server": "one etcd a cluster",
    "iproute2": "ip and ss, for whoever looks into a lab",
    "procps": "sysctl and ps",
}
BASELINES = {
    "nftables": "service rules as kube-proxy writes them",
    "iptables": "the same in its older mode",
    "containernetworking-plugins": "what other CNI plugins cost, and portmap, bandwidth and tuning to be chained with",
    "iperf3": "bulk traffic",
}
TESTS = {
    "etcd-client": "etcdctl, to judge our client by another",
    "util-linux": "unshare",
    "containerd": "a container runtime that asks the CNI plugin",
    "runc": "starts its containers",
    "busybox-static": "all that is in their image",
    "nginx-light": "a server whose clients are short-circuited",
    "haproxy": "a proxy that splices",
    "wrk": "asks for pages",
    "redis-server": "a database whose clients are short-circuited",
    "redis-tools": "its benchmark",
    "nodejs": "servers written in JavaScript",
}
KERNELS = {"qemu-system-x86": "other kernels than the machine's own"}
IMAGE = {"mmdebstrap": "the root file system of the container image"}
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "constraints": ("python3-venv",),
    "check": ("python3-venv",),
    "demo": (*BUILD, *LAB),
    "bench": (*BUILD, *LAB, *BASELINES),
    "test": (*BUILD, *LAB, *BASELINES, *TESTS, *IMAGE),
    "image": (*BUILD, *IMAGE),
    "kernels": (*BUILD, *LAB, *BASELINES, *TESTS, *KERNELS),
}

POLICY = Path("/usr/sbin/policy-rc.d")
REFUSE = "#!/bin/sh\n# Here while meshd's set-up installs packages: no service starts.\nexit 101\n"


class InstallError(Exception):
    """Packages could not be installed; the sentence says what to run by hand."""


def missing(packages: Iterable[str]) -> list[str]:
    """Those of ``packages`` that no installed one is or stands for; all of them where there is no dpkg.

    What stands for them counts because apt would take it away: Docker's containerd.io for Debian's containerd and runc.
    """
    there = installed()
    if there:
        there |= {
            provided.split()[0]
            for _, provides in _listed("Provides")
            for provided in provides.split(", ")
            if provided
        }
    return [package for package in packages if package not in there]


def installed() -> frozenset[str]:
    """Names of all installed packages, without architecture."""
    if not shutil.which("dpkg-query"):
        return frozenset()
    return frozenset(package for package, _ in _listed("Package"))


def _listed(field: str) -> Iterator[tuple[str, str]]:
    """Each installed package with its ``field``."""
    listing = subprocess.run(
        ["dpkg-query", "--show", f"--showformat=${{db:Status-Status}}\t${{Package}}\t${{{field}}}\n"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in listing.splitlines():
        status, package, value = line.split("\t")
        if status == "installed":
            yield package, value


def install(packages: list[str], log: Path) -> None:
    """Installs ``packages``; apt's own words go to ``log``.

    Raises:
        InstallError: not root, no apt, or apt failed; what could be installed is, and no service runs.
    """
    by_hand = f"as root, run `apt-get install {' '.join(packages)}`"
    if not shutil.which("apt-get"):
        raise InstallError(f"no apt-get here: install what Debian calls {' '.join(packages)}")
    if os.geteuid() != 0:
        raise InstallError(f"missing and not root: {by_hand}")
    before = installed()
    with no_service_starts():
        try:
            _apt(["update"], log)
            status = _apt(["install", "--yes", "--no-install-recommends", *packages], log)
        finally:
            stay_disabled(installed() - before)
    if status != 0:
        last = "\n  ".join(log.read_text(errors="replace").splitlines()[-8:])
        raise InstallError(f"apt-get failed ({log} has all of it); {by_hand}\n  {last}")


def _apt(arguments: list[str], log: Path) -> int:
    """Runs apt-get to its end, whatever the terminal sends: killed, it would leave dpkg at work without our policy."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *arguments]
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        return wait_through_interrupts(process)


def wait_through_interrupts(process: subprocess.Popen[bytes]) -> int:
    """The status of ``process``; an interrupt that came meanwhile is raised after its end."""
    interrupt: BaseException | None = None
    while True:
        try:
            status = process.wait()
        except (KeyboardInterrupt, SystemExit) as error:
            interrupt = error
            continue
        if interrupt is not None:
            raise interrupt
        return status


@contextlib.contextmanager
def no_service_starts(policy: Path = POLICY) -> Iterator[None]:
    """Meanwhile ``policy`` refuses every start; afterwards it is the same file, link or nothing as before."""
    aside = policy.with_name(f"{policy.name}.meshd-aside")
    ours = policy.with_name(f"{policy.name}.meshd-new")
    # The directory itself is the lock: a lock file would be one more thing to leave behind.
    directory = os.open(policy.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _put_back(policy, aside)  # what a killed run left
        try:
            if os.path.lexists(policy):
                policy.rename(aside)
            ours.write_text(REFUSE)
            ours.chmod(0o755)
            ours.rename(policy)
            yield
        finally:
            ours.unlink(missing_ok=True)
            _put_back(policy, aside)
    finally:
        os.close(directory)


def _put_back(policy: Path, aside: Path) -> None:
    if os.path.lexists(aside):
        aside.replace(policy)
    elif policy.is_file() and policy.read_text(errors="replace") == REFUSE:
        policy.unlink()


def stay_disabled(new: Iterable[str]) -> None:
    """Services of packages that were not here before do not start at the next boot either."""
    for service in sorted({service for package in new for service in services_of(package)}):
        if shutil.which("systemctl"):
            subprocess.run(
                ["systemctl", "--quiet", "disable", f"{service}.service"], capture_output=True, check=False
            )
        if Path("/etc/init.d", service).exists() and shutil.which("update-rc.d"):
            subprocess.run(["update-rc.d", service, "disable"], capture_output=True, check=False)


def services_of(package: str) -> frozenset[str]:
    """Names of the systemd units and init scripts that ``package`` brought; no templates."""
    files = subprocess.run(
        ["dpkg-query", "--listfiles", package], capture_output=True, text=True, check=False
    )
    paths = [Path(line) for line in files.stdout.splitlines()]
    units = {path.stem for path in paths if path.suffix == ".service" and path.parent.name == "system"}
    scripts = {path.name for path in paths if path.parent == Path("/etc/init.d")}
    return frozenset(name for name in units | scripts if not name.endswith("@"))

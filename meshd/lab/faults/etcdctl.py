"""What faults ask the etcd of a cluster, with etcdctl beside it: nobody's cut or cut-off stands between the two."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable

import yaml

from meshd.kernel.netns import Netns
from meshd.lab.etcd import CLIENT_PORT
from meshd.lab.layout import Cluster, Places
from meshd.lab.record import LabError
from meshd.lab.up import on_thread

TIMEOUT_S = 20.0
# Keys are looked at so often while somebody waits for them.
LOOK_S = 0.2


def ask(places: Places, cluster: Cluster, *arguments: str) -> str:
    """What etcdctl prints, as the cluster's own node.

    Raises:
        LabError: it failed; what it said.
    """
    return _run(places, cluster, [*_access(places, cluster), *arguments])


def work(places: Places, cluster: Cluster, *arguments: str) -> None:
    """The same for what only touches files.

    Raises:
        LabError: it failed; what it said.
    """
    _run(places, cluster, list(arguments))


def revision(places: Places, cluster: Cluster) -> int:
    """The store's."""
    said = json.loads(ask(places, cluster, "get", "nothing", "-w", "json"))
    return int(said["header"]["revision"])


def put(places: Places, cluster: Cluster, key: str, value: str) -> int:
    """Writes; the revision it got."""
    said = json.loads(ask(places, cluster, "put", key, value, "-w", "json"))
    return int(said["header"]["revision"])


def count(places: Places, cluster: Cluster, prefix: str) -> int:
    """How many keys begin with ``prefix``."""
    # Of all that there are, however few are sent.
    said = json.loads(ask(places, cluster, "get", prefix, "--prefix", "--limit", "1", "-w", "json"))
    return int(said.get("count", 0))


async def until_count(
    places: Places, cluster: Cluster, prefix: str, is_right: Callable[[int], bool], timeout_s: float
) -> None:
    """Returns when ``is_right`` of how many keys begin with ``prefix``.

    Raises:
        LabError: it is not after ``timeout_s``; how many there are.
    """
    deadline = time.monotonic() + timeout_s
    while not is_right(found := await on_thread(count, places, cluster, prefix)):
        if time.monotonic() > deadline:
            raise LabError(
                f"etcd of {cluster.name} has {found} keys that begin with {prefix} after {timeout_s:g} s"
            )
        await asyncio.sleep(LOOK_S)


async def at_first_write(
    places: Places, cluster: Cluster, prefix: str, begin: Callable[[], None], do: Callable[[], None]
) -> None:
    """Calls ``begin``, and ``do`` on a thread as soon as a key below ``prefix`` is written; returns then.

    Raises:
        LabError: none was written.
    """
    since = await on_thread(revision, places, cluster)
    command = ["etcdctl", *_access(places, cluster), "watch", "--prefix", prefix, "--rev", str(since + 1)]
    with Netns.open(places.etcd_netns(cluster.name)) as netns:
        # A child has the namespace of the thread that made it.
        watch = netns.run(
            lambda: subprocess.Popen(
                command, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )

    def wait_and_do() -> bool:
        said = watch.stdout.readline() if watch.stdout is not None else b""
        if said:
            do()
        return bool(said)

    done = asyncio.ensure_future(asyncio.to_thread(wait_and_do))
    try:
        begin()
        await asyncio.wait([done], timeout=TIMEOUT_S)
    finally:
        watch.kill()
        await asyncio.wait([done])
        watch.communicate()
    if not done.result():
        raise LabError(f"etcd of {cluster.name}: nothing was written below {prefix} for {TIMEOUT_S:g} s")


def _access(places: Places, cluster: Cluster) -> list[str]:
    files = yaml.safe_load(places.etcd_client(cluster.name).read_text())
    trust = ("--cacert", files["trusted-ca-file"], "--cert", files["cert-file"], "--key", files["key-file"])
    return ["--endpoints", f"https://{cluster.etcd.v4}:{CLIENT_PORT}", *trust]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "ETCDCTL_API": "3"}


def _run(places: Places, cluster: Cluster, arguments: list[str]) -> str:
    def run() -> subprocess.CompletedProcess[str]:
        command = ["etcdctl", *arguments]
        return subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )

    with Netns.open(places.etcd_netns(cluster.name)) as netns:
        done = netns.run(run)
    if done.returncode != 0:
        raise LabError(f"etcd of {cluster.name}: etcdctl failed: {done.stderr.strip()}")
    return done.stdout

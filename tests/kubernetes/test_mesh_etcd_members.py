"""An etcd of three members on three nodes: one goes, all certificates and their authority change, and writes go on."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.installing import ON_NODES, clustermesh
from tests.netns.runtime import agent_image

pytestmark = [*ON_NODES, pytest.mark.long]
ROOT = Path(__file__).parents[2]
IN_NAMESPACE = ("-n", "meshd-system")
ETCD = "app.kubernetes.io/component=etcd"
# Writes as an agent does, with the files as nodes see them, and counts those that were refused or took too long.
WRITER = """
import asyncio, json, signal, sys
from clustermesh.kv import Kv
from clustermesh.peers import parse_file
from clustermesh.errors import KvError

async def main(path):
    peer = parse_file(path, "cm-1", open(path, "rb").read())
    ended, done, failed = asyncio.Event(), 0, []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with Kv(peer.endpoints, tls=peer.tls) as kv:
        while not ended.is_set():
            try:
                await kv.put("test/writer", str(done).encode())
                done += 1
            except KvError as error:
                failed.append(str(error))
            if done == 1:
                print("writing", flush=True)
            await asyncio.sleep(0.02)
    print(json.dumps({"done": done, "failed": failed}), flush=True)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """Three nodes, each with a member, and no network for pods: etcd needs none."""
    with site(f"{run_name}e", Wanted([3])) as made:
        cluster = made.clusters[0]
        for node in cluster.nodes:
            node.import_image(agent_image.etcd_archive())
        nodes = [word for node in cluster.nodes for word in ("--etcd-node", node.name)]
        clustermesh(
            cluster,
            *("init", "--name", "cm-1", "--id", "1", "--network", "10.211.0.0/16"),
            *("--etcd-image", "meshd-etcd:test", *nodes),
        )
        wait_for_all(cluster)
        yield cluster


def wait_for_all(cluster: RunningCluster) -> None:
    cluster.wait(
        "three members",
        lambda: meshctl_status(cluster).count("3 of 3 members answer") == 3 and len(ready(cluster)) == 3,
    )


def meshctl_status(cluster: RunningCluster) -> str:
    command = [
        sys.executable,
        "-m",
        "meshd.ctl.main",
        "clustermesh",
        "status",
        f"--kubeconfig={cluster.admin}",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def ready(cluster: RunningCluster) -> list[str]:
    """Names of the members' pods that can write."""
    return [
        pod["metadata"]["name"]
        for pod in cluster.get("pods", *IN_NAMESPACE, "-l", ETCD)["items"]
        if all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))
    ]


def leader(cluster: RunningCluster) -> str:
    """The pod whose member leads."""
    pods: dict[str, Any] = {  # Any: JSON
        pod["status"]["podIP"]: pod["metadata"]["name"]
        for pod in cluster.get("pods", *IN_NAMESPACE, "-l", ETCD)["items"]
    }
    lines = cluster.kubectl("logs", *IN_NAMESPACE, next(iter(pods.values())), "-c", "keeper").splitlines()
    state = json.loads([line for line in lines if '"etcd state"' in line][-1])
    (found,) = (name for name, each in state["members"].items() if each and each["leads"])
    return str(pods[found.rpartition(":")[0]])


@contextmanager
def writing(cluster: RunningCluster, directory: Path) -> Iterator[dict[str, Any]]:  # Any: JSON
    """Somebody writes all the time; afterwards the mapping says what came of it."""
    below = directory / "client"
    below.mkdir()
    take(cluster, below)
    process = subprocess.Popen(
        [*cluster.nodes[0].enter, sys.executable, "-c", WRITER, str(below / "etcd.yaml")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "GRPC_VERBOSITY": "NONE"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    found: dict[str, Any] = {}
    try:
        yield found
    finally:
        process.terminate()
        found |= json.loads(process.communicate(timeout=60)[0])


def take(cluster: RunningCluster, below: Path) -> None:
    """The Secret as a node would have it, which it sees at some time after it changed."""
    data = cluster.get("secret", "meshd-clustermesh", *IN_NAMESPACE)["data"]
    for name, content in data.items():
        text = base64.b64decode(content).replace(b"/etc/clustermesh/client", str(below).encode())
        new = below / f".{name}"
        new.write_bytes(text)
        new.rename(below / name)


def test_writes_go_on_when_the_leader_is_killed_and_it_comes_back(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    with writing(cluster, tmp_path) as found:
        for _ in range(3):
            cluster.kubectl("delete", "pod", leader(cluster), *IN_NAMESPACE, "--grace-period=0", "--force")
            wait_for_all(cluster)
    assert found["failed"] == []
    assert found["done"] > 100


def test_only_one_member_is_evicted_at_a_time(cluster: RunningCluster) -> None:
    one, two, _ = ready(cluster)

    def evict(pod: str) -> str:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": IN_NAMESPACE[1]},
        }
        path = f"/api/v1/namespaces/{IN_NAMESPACE[1]}/pods/{pod}/eviction"
        return cluster.kubectl("create", "--raw", path, "-f", "-", content=json.dumps(body), check=False)

    assert '"Success"' in evict(one)
    # Whatever the API server says in words, the pod is as it was.
    before = cluster.get("pod", two, *IN_NAMESPACE)["metadata"]["uid"]
    assert '"Success"' not in evict(two)
    assert cluster.get("pod", two, *IN_NAMESPACE)["metadata"]["uid"] == before
    wait_for_all(cluster)


def test_authority_and_certificates_change_while_writes_go_on(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    below = tmp_path / "client"
    with writing(cluster, tmp_path) as found:
        for words in (("authority",), ("certificates",), ("authority", "--finish")):
            clustermesh(cluster, "rotate", *words)
            take(cluster, below)
            wait_for_all(cluster)
    assert found["failed"] == []
    assert found["done"] > 100

"""A real `meshd` process over a scratch cgroup and a throwaway namespace, and real client and server processes in them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import grpc
import yaml

from meshd.api.v1 import status_pb2, status_pb2_grpc
from meshd.kernel import cgroup, netlink, pins
from meshd.kernel.netns import Netns
from tests.patience import patience

HERE = Path(__file__).parent
VIP, PORT = "10.96.0.10", 80
PATIENCE_S = patience(30)
# Where everything is slow, whoever asks too often only keeps the others from working.
POLL_S = patience(0.005)
# A socket belongs to the cgroup its process was in when it was made, so that comes first.
ENTER = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'


class AgentNode:
    """`start` and `kill` the agent as often as wanted; what it pinned stays until `close`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self.bpffs = directory / "bpf"
        self.cgroup = cgroup.find_mount() / name
        self.netns = Netns.create(name)
        self.options: dict[str, object] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.agent: subprocess.Popen[bytes] | None = None
        pins.mount_bpffs(self.bpffs)
        cgroup.create(self.cgroup)
        netlink.set_up(self.netns, "lo", [ip_interface("fd00::11/128")])

    def close(self) -> None:
        self.kill()
        (self.cgroup / "cgroup.kill").write_text("1")
        for process in self._processes:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        # Their children were killed as well, but nobody here waits for those.
        self.wait(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text())
        cgroup.remove_tree(self.cgroup)
        pins.unmount_bpffs(self.bpffs)
        self.netns.close()

    # The agent

    def start(self, **options: object) -> None:
        """Starts the agent and waits until its API answers."""
        self.options |= options
        config = self.configuration()
        with (self.directory / "meshd.log").open("ab") as log:
            # A child has the namespace of the thread that made it. Not preexec_fn: it forks all of this process, and gRPC's
            # threads may hold locks that its fork handlers then wait for.
            self.agent = self.netns.run(
                lambda: subprocess.Popen(
                    [sys.executable, "-m", "meshd.agent", "--config", config], stderr=log
                )
            )
        self.wait(lambda: self.status() is not None)

    def configuration(self, name: str = "config.yaml", **others: object) -> Path:
        """A file with the agent's configuration; ``others`` are options that differ in it."""
        path = self.directory / name
        path.write_text(
            yaml.safe_dump(
                {
                    "nodeName": "node-1",
                    "clusterName": "cm-1",
                    "clusterId": 1,
                    "cgroup": str(self.cgroup),
                    "bpffs": str(self.bpffs / "node"),
                    "runDir": str(self.directory / "run"),
                    "stateDir": str(self.directory / "state"),
                    "manifests": str(self.manifests),
                }
                | self.options
                | others
            )
        )
        return path

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Ends the agent at once."""
        if self.agent is not None:
            self.agent.send_signal(number)
            self.agent.wait()
            self.agent = None

    def log(self) -> list[dict[str, object]]:
        """The agent's log so far, over all its lives."""
        lines = (self.directory / "meshd.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.directory}/run/meshd.sock")

    def status(self) -> status_pb2.GetStatusResponse | None:
        """What the agent says of itself; None: it does not answer."""
        with self.channel() as channel:
            try:
                stub = status_pb2_grpc.StatusServiceStub(channel)
                return stub.GetStatus(status_pb2.GetStatusRequest(), timeout=patience(2))
            except grpc.RpcError:
                return None

    # Manifests

    def write(self, name: str, *documents: dict[str, object]) -> None:
        """Puts a manifest file in place as a whole."""
        beside = self.manifests / f".{name}"
        beside.write_text(yaml.safe_dump_all(documents))
        beside.rename(self.manifests / f"{name}.yaml")

    def write_service(self, *addresses: str) -> None:
        """`rebel-base` on VIP:PORT with these backends on port 8080."""
        self.write("rebel-base", service("rebel-base", VIP), endpoint_slice("rebel-base", *addresses))

    # Processes

    def spawn(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A process of a workload: in the namespace, and in the cgroup before it opens a socket."""
        own = [script, str(self.cgroup), sys.executable, str(HERE / script), *arguments]
        command = ["/bin/sh", "-c", ENTER, *own]
        process = self.netns.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
        self._processes.append(process)
        return process

    def wait(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Until the condition holds."""
        deadline = time.monotonic() + patience_s
        while not condition():
            if self.agent is not None and self.agent.poll() is not None:
                raise AssertionError((self.directory / "meshd.log").read_text()[-3000:])
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {patience_s} s: {condition}")
            time.sleep(POLL_S)


def service(name: str, vip: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": vip,
            "clusterIPs": [vip],
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        },
    }


def endpoint_slice(name: str, *addresses: str) -> dict[str, object]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.decode().strip()

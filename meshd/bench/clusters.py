"""Two clusters of one node for a bench: an etcd each, over mutual TLS and on disk as in production, and an agent each.

Both are in one namespace, each etcd at an address of its loopback; no link between them adds to what is measured.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from meshd.bench.agents import Agent
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.workers import entering
from meshd.kernel import cgroup
from meshd.lab.certificates import Authority, KeyPair
from meshd.lab.etcd import CLIENT_PORT

ETCD_TIMEOUT_S = 20.0
_LOOK_EVERY_S = 0.02


class Cluster:
    """``name`` with number ``number`` (1..199), its etcd running and its agent not yet; all ends with ``stack``."""

    def __init__(
        self, places: Places, place: Place, stack: contextlib.ExitStack, name: str, number: int
    ) -> None:
        self.name = name
        self._number = number
        self._place = replace(place, name=name, cgroup=place.cgroup.with_name(f"{place.cgroup.name}-{name}"))
        cgroup.create(self._place.cgroup)
        self._places = places
        self._stack = stack
        self._directory = places.run / name
        self._address = IPv4Address(f"127.0.{number}.1")
        self._authority = Authority(self._directory / "pki", f"etcd-ca-{name}")
        self._peers = self._directory / "peers"
        self._peers.mkdir()
        self._etcd = self._start_etcd(self._authority.issue("etcd", [self._address]))
        stack.callback(self._end_etcd)
        self._client_file = self._directory / "etcd.yaml"
        self._client_file.write_text(self._access("client"))

    def follow(self, other: Cluster) -> None:
        """This cluster's agent will read what ``other`` shares."""
        (self._peers / other.name).write_text(other._access(f"remote-{self.name}"))

    def start_agent(self) -> Agent:
        """The agent of the one node."""
        options: dict[str, object] = {
            "nodeName": f"{self.name}-n1",
            "clusterName": self.name,
            "clusterId": self._number,
            "clustermesh": {"etcd": str(self._client_file), "peers": str(self._peers)},
        }
        return self._stack.enter_context(Agent(self._places, self._place, options))

    def wait_for_etcd(self) -> None:
        """Returns when etcd takes connections; raises BenchError with the end of its log if it does not."""
        deadline = time.monotonic() + ETCD_TIMEOUT_S
        while not self._place.client.run(self._is_reached):
            if self._etcd.poll() is not None or time.monotonic() > deadline:
                log = (self._directory / "etcd.log").read_text(errors="replace")
                words = "\n".join(log.splitlines()[-5:])
                raise BenchError(f"etcd of {self.name} does not answer; its log ends:\n{words}")
            time.sleep(_LOOK_EVERY_S)

    def _is_reached(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((str(self._address), CLIENT_PORT)) == 0

    def _start_etcd(self, pair: KeyPair) -> subprocess.Popen[bytes]:
        url, peer = f"https://{self._address}:{CLIENT_PORT}", f"http://{self._address}:2380"
        command = [
            *("etcd", "--name", self.name, "--data-dir", str(self._places.state / f"etcd-{self.name}")),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"{self.name}={peer}", "--logger", "zap", "--client-cert-auth"),
            *("--cert-file", str(pair.certificate), "--key-file", str(pair.key)),
            *("--trusted-ca-file", str(self._authority.certificate)),
        ]
        group = self._places.cgroup / f"etcd-{self.name}"
        with (self._directory / "etcd.log").open("wb") as log:
            return subprocess.Popen(
                entering(group, self._place.client, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end_etcd(self) -> None:
        self._etcd.kill()
        self._etcd.wait()

    def _access(self, user: str) -> str:
        """An etcd client file for ``user``."""
        pair = self._authority.issue(user)
        return yaml.safe_dump(
            {
                "endpoints": [f"https://{self._address}:{CLIENT_PORT}"],
                "trusted-ca-file": str(self._authority.certificate),
                "cert-file": str(pair.certificate),
                "key-file": str(pair.key),
            }
        )


def require_etcd() -> Path:
    """Where etcd is.

    Raises:
        BenchError: it is not installed.
    """
    found = shutil.which("etcd")
    if found is None:
        raise BenchError(
            "etcd is not installed: `apt-get install --no-install-recommends etcd-server` (Debian 12)"
        )
    return Path(found)

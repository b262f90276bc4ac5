"""One etcd of a bench: over mutual TLS and on disk as in production, in whatever namespace it is to be reached from."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from clustermesh.authority import KeyPair
from meshd.bench.places import BenchError, Places
from meshd.bench.workers import entering
from meshd.kernel.netns import Netns
from meshd.lab.certificates import Authority
from meshd.lab.etcd import CLIENT_PORT

TIMEOUT_S = 20.0
_LOOK_EVERY_S = 0.02


class Etcd:
    """The etcd called ``name``, at ``address`` of ``netns``; started when this is made, it ends with ``stack``.

    ``directory`` has its certificates, its log, and whatever else its cluster wants to keep there.
    """

    def __init__(
        self, places: Places, stack: contextlib.ExitStack, name: str, netns: Netns, address: IPv4Address
    ) -> None:
        self.name = name
        self.directory = places.run / name
        self._places = places
        self._netns = netns
        self._address = address
        self._authority = Authority(self.directory / "pki", f"etcd-ca-{name}")
        self._process = self._start(self._authority.issue("etcd", [address]))
        stack.callback(self._end)

    def wait(self) -> None:
        """Returns when it takes connections; raises BenchError with the end of its log if it does not."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self._netns.run(self._is_reached):
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "etcd.log").read_text(errors="replace")
                words = "\n".join(log.splitlines()[-5:])
                raise BenchError(f"etcd of {self.name} does not answer; its log ends:\n{words}")
            time.sleep(_LOOK_EVERY_S)

    def access(self, user: str) -> str:
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

    def _is_reached(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((str(self._address), CLIENT_PORT)) == 0

    def _start(self, pair: KeyPair) -> subprocess.Popen[bytes]:
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
        with (self.directory / "etcd.log").open("wb") as log:
            return subprocess.Popen(
                entering(group, self._netns, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


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

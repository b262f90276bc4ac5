"""The etcd of a test's cluster: stopped, wiped and started again by tests, and asked what it ever held."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from meshd.kernel.netns import Netns
from tests.e2e.traces import wait_for

Event = dict[str, Any]  # Any: etcd's JSON


class Etcd:
    """The etcd of one cluster, on port 2379 of ``address`` in ``netns``; it keeps its data in memory."""

    def __init__(self, netns: Netns, address: str) -> None:
        self.url = f"http://{address}:2379"
        self._netns = netns
        self._address = address
        memory = Path("/dev/shm")
        self._directory = Path(tempfile.mkdtemp(prefix="mt-etcd-", dir=memory if memory.is_dir() else None))
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts it; `listening` waits for it."""
        peer = f"http://{self._address}:2380"
        command = [
            *("etcd", "--name", "m0", "--data-dir", str(self._directory / "data"), "--log-level", "error"),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"m0={peer}"),
            # A member that is alone waits for its own vote only, but after a restart it does so for a second.
            *("--heartbeat-interval", "20", "--election-timeout", "200"),
        ]
        with (self._directory / "log").open("ab") as log:
            # A child has the namespace of the thread that made it.
            self._process = self._netns.run(
                lambda: subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )

    def listening(self) -> None:
        """Returns when it answers."""
        wait_for(lambda: self._netns.run(self._is_reached), f"etcd at {self.url}")
        self.ctl("get", "nothing")

    def start(self) -> None:
        """Launches it and waits until it answers."""
        self.launch()
        self.listening()

    def stop(self) -> None:
        """Ends it at once, without a word to its clients; what it stored stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Throws away all that it stored (it must not run)."""
        shutil.rmtree(self._directory / "data")

    def remove(self) -> None:
        """Stops it, and takes its files away."""
        self.stop()
        shutil.rmtree(self._directory)

    def ctl(self, *arguments: str) -> Any:  # Any: etcd's JSON
        """What `etcdctl` answers, its JSON."""
        done = self._netns.run(
            lambda: subprocess.run(self._ctl(*arguments), capture_output=True, text=True, check=False)
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def history(self, prefix: str, revision: int, until_key: str) -> list[Event]:
        """Every event of keys below ``prefix`` after ``revision``, in order, to the first one of ``until_key``."""
        command = self._ctl("watch", "--prefix", prefix, "--rev", str(revision + 1))
        found: list[Event] = []
        with self._netns.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE)) as watch:
            assert watch.stdout is not None
            for line in watch.stdout:
                found += json.loads(line).get("Events") or []
                if any(event["kv"]["key"] == until_key for event in found):
                    break
            watch.kill()
        return found

    def _ctl(self, *arguments: str) -> list[str]:
        return ["etcdctl", "--endpoints", self.url, "--command-timeout", "20s", "-w", "json", *arguments]

    def _is_reached(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
        with socket.socket() as probe:
            return probe.connect_ex((self._address, 2379)) == 0

"""A real etcd in a directory of its own on ports of its own.

Stopped, killed, wiped and started again by the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from clustermesh.call import KvOptions
from clustermesh.channel import Endpoint, TlsFiles, parse_endpoint
from clustermesh.kv import Kv

# Below the range that the kernel takes the ports of outgoing connections from: a client that dials a port of it while
# nobody listens is, now and then, given the same port, connects to itself, and keeps etcd from ever getting it back.
PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """``count`` loopback ports that nobody listens on now."""
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        one = socket.socket()
        with contextlib.suppress(OSError):
            one.bind(("127.0.0.1", random.choice(PORTS)))  # noqa: S311 - any will do
            sockets.append(one)
            continue
        one.close()
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class EtcdProcess:
    """One member.

    ``extra`` are further command line flags; ``scheme`` https needs certificate flags among them.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "m0",
        *,
        extra: Sequence[str] = (),
        scheme: str = "http",
        cluster: dict[str, int] | None = None,
    ) -> None:
        self.directory = directory
        self.name = name
        self.scheme = scheme
        self.extra = list(extra)
        self.port, own_peer_port = free_ports(2)
        self.cluster = cluster or {name: own_peer_port}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a client dials."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        """The same, parsed."""
        return parse_endpoint(self.url)

    def launch(self) -> None:
        """Start without waiting; members of one cluster need each other before they answer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        peer = f"http://127.0.0.1:{self.cluster[self.name]}"
        members = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self.cluster.items())
        command = [
            *("etcd", "--name", self.name, "--data-dir", str(self.directory / "data")),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", members, "--initial-cluster-token", members),
            *("--log-level", "error", *self.extra),
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    async def start(self) -> None:
        """Start and wait until it takes connections."""
        self.launch()
        await self.listening()

    async def listening(self) -> None:
        """Wait until the client port takes connections; fails with etcd's log when it died instead."""
        async with asyncio.timeout(20):
            while True:
                if self.process is None or self.process.poll() is not None:
                    raise AssertionError((self.directory / "log").read_text()[-2000:])
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        """End it the graceful way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Throw away everything it stored (it must not run)."""
        shutil.rmtree(self.directory / "data")

    def restore(self, snapshot: Path, *, as_it_was: bool = False) -> None:
        """Begin with what ``etcdctl snapshot save`` wrote (it must not run, and be wiped).

        ``as_it_was``: under the id of the cluster that it had, so that clients do not see another one.
        """
        peer = f"http://127.0.0.1:{self.cluster[self.name]}"
        self.ctl(
            *("snapshot", "restore", str(snapshot), "--data-dir", str(self.directory / "data")),
            *("--name", self.name, "--initial-cluster", f"{self.name}={peer}"),
            *("--initial-advertise-peer-urls", peer),
            *(("--initial-cluster-token", f"{self.name}={peer}") if as_it_was else ()),
        )

    def ctl(self, *arguments: str) -> str:
        """What `etcdctl` answers."""
        environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
        command = ["etcdctl", "--endpoints", self.url, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kv(self, *, tls: TlsFiles | None = None, options: KvOptions | None = None) -> Kv:
        """An adapter for this member alone."""
        return Kv([self.endpoint], tls=tls, options=options)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(timeout=20)
        self.process = None

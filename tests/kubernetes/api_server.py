"""An API server alone: etcd and kube-apiserver of Kubernetes 1.36 on this machine's loopback, without controllers and nodes.

Started in seconds and without root; killed, stopped and started again by the tests, on the port that it had.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

from scripts.kubernetes import api_server, components
from scripts.kubernetes.certificates import Authority
from tests.etcd.process import EtcdProcess, free_ports

LOOPBACK = IPv4Address("127.0.0.1")
SERVICES = (IPv4Network("10.96.0.0/16"), IPv6Network("fd96::/112"))
# Of a machine that is busy with everything else; reached only when something is wrong.
READY_S = 180.0
POLL_S = 0.05


class ApiServerAlone:
    """``admin``: a kubeconfig that may do everything. ``directory`` has the logs of both."""

    def __init__(self, directory: Path, data: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.authority = Authority(directory / "pki", "kubernetes")
        self.etcd = EtcdProcess(data, "kubernetes")
        self.server = api_server.ApiServer(
            LOOPBACK,
            free_ports(1)[0],
            self.etcd.url,
            SERVICES,
            api_server.make_keys(self.authority, [LOOPBACK]),
            directory,
        )
        self.admin = self.client("admin", [api_server.ADMINISTRATORS])
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def log(self) -> Path:
        return self.directory / "kube-apiserver.log"

    def client(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for ``user``, who may do nothing but what roles say of user or groups."""
        return api_server.write_client(
            self.server, self.authority, self.directory / f"{user}.kubeconfig", user, groups
        )

    def launch(self) -> None:
        """Start the API server without waiting; etcd runs."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.server.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the API server, on the same port as ever, and wait until it is ready; etcd is started if it does not run."""
        if self.etcd.process is None:
            self.etcd.launch()
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns once it is ready; fails with the end of its log if it ended, or was not in time."""
        deadline = time.monotonic() + READY_S
        while not api_server.is_ready(self.server):
            ended = self.process is None or self.process.poll() is not None
            assert not ended and time.monotonic() < deadline, self.log.read_text(errors="replace")[-3000:]
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it the graceful way; returns when the port is free."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word."""
        self._end(signal.SIGKILL)

    def kubectl(self, *arguments: str, content: str | None = None) -> str:
        """What kubectl answers to the administrator; ``content`` is its standard input (`apply -f -`)."""
        done = subprocess.run(
            [components.program("kubectl"), f"--kubeconfig={self.admin}", *arguments],
            input=content,
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        """Ends both; nothing runs afterwards. The API server first: one whose etcd is gone hangs."""
        self.kill()
        self.etcd.kill()

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(timeout=READY_S)
        self.process = None


@contextlib.contextmanager
def running_api_server(directory: Path) -> Iterator[ApiServerAlone]:
    """One that is ready, and gone afterwards."""
    # etcd waits for the disk at every write; in memory a busy disk cannot decide whether a test passes.
    memory = Path("/dev/shm")
    data = Path(tempfile.mkdtemp(prefix="mt-kubernetes-", dir=memory if memory.is_dir() else directory))
    made = ApiServerAlone(directory, data / "etcd")
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(data)

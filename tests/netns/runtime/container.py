"""A container with an interface of meshd: a web server that answers with its name, and a shell to look at the world from."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from meshd.kernel.netns import Netns
from tests.netns.runtime import image
from tests.netns.runtime.containerd import ENTER_CGROUP, PATIENCE_S, Containerd

PORT = 8080
SERVE = f'echo -n "$0" >/www/index.html && exec httpd -f -p {PORT} -h /www'


@dataclass(frozen=True, slots=True)
class Container:
    """``client``: the `ctr run` that waits for its end and then asks meshd to take the interface away; None: nobody does."""

    runtime: Containerd
    name: str
    pid: int
    client: subprocess.Popen[bytes] | None

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs ``script`` inside, without the runtime: `ctr tasks exec` loses the output of what ends at once."""
        into = ("nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--ipc")
        own = self.runtime.node.agent.cgroup / self.name
        command: list[str | Path] = ["sh", "-c", ENTER_CGROUP, "sh", own, *into, "/bin/sh", "-c", script]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def addresses(self) -> list[str]:
        """Of eth0, as the container sees them; no link-local ones."""
        shown = self.sh("ip -oneline address show dev eth0").stdout.splitlines()
        found = [line.split()[3].partition("/")[0] for line in shown]
        return [address for address in found if not address.startswith("fe80:")]

    def pings(self, address: str) -> bool:
        """Whether ``address`` answers an echo request."""
        return self.sh(f"ping -c 1 -W 5 {address}").returncode == 0

    def get(self, host: str, port: int = PORT) -> str:
        """What the web server at ``host`` says, or what wget says of it."""
        literal = f"[{host}]" if ":" in host else host
        # Not `wget -T`: with it, Debian 12's busybox-static dies.
        done = self.sh(f"timeout 5 wget -q -O - http://{literal}:{port}/")
        return done.stdout + done.stderr

    def netns(self) -> Netns:
        return Netns.of_process(self.pid)

    def end(self) -> None:
        """Kills it; its client, if it has one, tells meshd and forgets the container."""
        self.runtime.ctr("tasks", "kill", "--signal", "SIGKILL", self.name)
        if self.client is None:
            remove(self.runtime, self.name)
        else:
            self.client.wait(PATIENCE_S)


def run(runtime: Containerd, name: str, *, detached: bool = False) -> Container:
    """A container that serves. Detached ones outlive containerd, and nobody ever asks for a DEL of them."""
    client = launch(runtime, name, detached=detached)
    if detached:
        assert client.wait(PATIENCE_S) == 0, log_of(runtime, name)
    pid_file = pid_file_of(runtime, name)
    runtime.node.agent.wait(lambda: is_serving(runtime, pid_file, client, detached=detached))
    return Container(runtime, name, int(pid_file.read_text()), None if detached else client)


def launch(runtime: Containerd, name: str, *, detached: bool = False) -> subprocess.Popen[bytes]:
    """The client that makes the container, not waited for."""
    pid_file_of(runtime, name).unlink(missing_ok=True)
    options = ["--detach"] if detached else ["--rm"]
    options += ["--cni", "--snapshotter", "native", "--cgroup", f"/{runtime.name}/{name}"]
    options += ["--pid-file", str(pid_file_of(runtime, name))]
    words = ("run", *options, image.NAME, name, "sh", "-c", SERVE, name)
    return runtime.spawn(*runtime.command(*words), log=f"{name}.log")


def is_serving(
    runtime: Containerd, pid_file: Path, client: subprocess.Popen[bytes], *, detached: bool
) -> bool:
    """Whether its web server listens (proc(5), /proc/net/tcp: state 0A)."""
    if not detached and client.poll() is not None:
        raise AssertionError(log_of(runtime, pid_file.stem))
    try:
        sockets = Path(f"/proc/{int(pid_file.read_text())}/net/tcp6").read_text().splitlines()[1:]
    except (FileNotFoundError, ValueError):
        return False
    rows = (line.split() for line in sockets)
    return any(row[1].endswith(f":{PORT:04X}") and row[3] == "0A" for row in rows)


def remove(runtime: Containerd, name: str) -> None:
    """Everything that containerd knows of a container goes; CNI plugins hear nothing of it."""
    runtime.ctr("tasks", "delete", "--force", name)
    runtime.ctr("containers", "delete", name)


def pid_file_of(runtime: Containerd, name: str) -> Path:
    return runtime.directory / f"{name}.pid"


def log_of(runtime: Containerd, name: str) -> str:
    return (runtime.directory / f"{name}.log").read_text()

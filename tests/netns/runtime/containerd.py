"""Debian's containerd and runc on a node of the test, beside whatever the machine itself runs.

containerd 1.6's `ctr run --cni` reads only /etc/cni/net.d and /opt/cni/bin, and shims meet below /run/containerd. So a
node's runtime has a mount namespace in which those three directories take writes that nobody else sees, held by a process
of its own: containerd may die and come back in it.

All processes (containerd, shims, containers) are in the node's cgroup, and runc makes the containers' cgroups below one of
that name in every hierarchy. So one write kills them all, however a test ended, and the sockets of containers belong to the
node's cgroup as they do on a machine of its own.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from meshd.kernel import cgroup
from tests.netns.cni.node import CniNode
from tests.netns.runtime import image

# A client that waits longer than this for containerd has lost it.
PATIENCE_S = 60
ENTER_CGROUP = 'echo 0 >"$1/cgroup.procs" && shift && exec "$@"'
# Then `cat` holds the namespace for as long as somebody holds its standard input.
MAKE_NAMESPACE = """
set -e
mount -t tmpfs tmpfs "$1"
for directory in etc opt run; do
    mkdir "$1/$directory" "$1/$directory.work"
    mount -t overlay overlay -o "lowerdir=/$directory,upperdir=$1/$directory,workdir=$1/$directory.work" "/$directory"
done
echo ready
exec cat
"""
# What of containerd is not used here, and looks for programs and file systems that need not be there.
UNUSED = ("grpc.v1.cri", *(f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")))
CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [{unused}]
"""


class Containerd:
    """The runtime of ``node``, with meshd installed as its network; `start` and `kill` as often as wanted."""

    def __init__(self, node: CniNode) -> None:
        self.node = node
        self.name = node.name
        self.directory = node.agent.directory / "containerd"
        self.directory.mkdir()
        (self.directory / "private").mkdir()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        script = ["sh", "-c", MAKE_NAMESPACE, "sh", str(self.directory / "private")]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n", "the mount namespace could not be made"

    def close(self) -> None:
        """Nothing stays: processes, mounts, and cgroups in any hierarchy."""
        (self.node.agent.cgroup / "cgroup.kill").write_text("1")
        events = self.node.agent.cgroup / "cgroup.events"
        self.node.agent.kill()
        self.node.agent.wait(lambda: "populated 0" in events.read_text())
        for process in self._spawned:
            process.wait()
        self._holder.communicate(timeout=PATIENCE_S)
        for left in self.cgroups():
            if left != self.node.agent.cgroup:
                cgroup.remove_tree(left)

    def cgroups(self) -> list[Path]:
        """The cgroups of this node, one in each hierarchy that runc used."""
        mounts = (line.split(" ") for line in cgroup.MOUNTS.read_text().splitlines())
        roots = {Path(where) for _, where, kind, *_ in mounts if kind in {"cgroup", "cgroup2"}}
        return [made for root in roots if (made := root / self.name).is_dir()]

    def enter(self, *command: str | Path) -> list[str | Path]:
        """``command``, to be started in the runtime's namespaces and in the node's cgroup."""
        there = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        return ["sh", "-c", ENTER_CGROUP, "sh", self.node.agent.cgroup, "nsenter", there, *command]

    def spawn(self, *command: str | Path, log: str) -> subprocess.Popen[bytes]:
        """Starts ``command`` there; what it says goes to the file ``log``."""
        entered = self.enter(*command)
        with (self.directory / log).open("ab") as output:
            process = self.node.netns.run(
                lambda: subprocess.Popen(
                    entered, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )
        self._spawned.append(process)
        return process

    def do(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs ``command`` there to its end."""
        entered = self.enter(*command)
        return self.node.netns.run(
            lambda: subprocess.run(
                entered,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        )

    # The daemon

    def install(self) -> None:
        """`meshctl cni install`, and the image."""
        config = self.node.agent.configuration()
        done = self.do(sys.executable, "-m", "meshd.ctl.main", "cni", "install", "--config", config)
        assert done.returncode == 0, done.stderr
        archive = self.directory / "image.tar"
        image.write(archive, platform.machine())
        self.ctr("images", "import", "--snapshotter", "native", str(archive))

    def start(self) -> None:
        """Starts containerd and waits until it answers."""
        config = self.directory / "config.toml"
        unused = ", ".join(f'"io.containerd.{name}"' for name in UNUSED)
        config.write_text(CONFIG.format(directory=self.directory, unused=unused))
        self._daemon = self.spawn("containerd", "--config", config, log="containerd.log")
        self.node.agent.wait(self._answers)

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise AssertionError((self.directory / "containerd.log").read_text()[-3000:])
        return self.do(*self.command("version")).returncode == 0

    def kill(self) -> None:
        """Ends containerd at once; shims and containers stay."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self._daemon = None

    # Its client

    def command(self, *words: str) -> list[str]:
        """``ctr`` with ``words``, asking this containerd: it listens where all do, below the private /run."""
        return ["ctr", "--namespace", self.name, *words]

    def ctr(self, *words: str) -> str:
        """What ``ctr`` prints; it has to succeed."""
        done = self.do(*self.command(*words))
        assert done.returncode == 0, f"ctr {' '.join(words)}: {done.stderr}"
        return done.stdout

    def containers(self) -> list[str]:
        """The ids that containerd knows."""
        return self.ctr("containers", "list", "--quiet").split()

    def left_of(self, container: str) -> list[str]:
        """What there is of a container: containerd's record, its shim, cgroups in any hierarchy."""
        known = [f"container {container}"] if container in self.containers() else []
        shim = ["-namespace", self.name, "-id", container]
        return [
            *known,
            *(f"shim {pid}" for pid, words in self._processes() if words[1:5] == shim),
            *(f"cgroup {path}" for made in self.cgroups() if (path := made / container).is_dir()),
        ]

    def is_asking(self, container: str) -> bool:
        """Whether a plugin waits for the agent's answer about ``container``."""
        said = f"CNI_CONTAINERID={self.cni_id(container)}".encode()
        plugins = [pid for pid, words in self._processes() if words[0].endswith("/meshd-cni")]
        return any(said in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in plugins)

    def _processes(self) -> Iterator[tuple[int, list[str]]]:
        """Process ids and command lines of the node."""
        for pid in cgroup.processes(self.node.agent.cgroup):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield pid, Path(f"/proc/{pid}/cmdline").read_text().split("\0")

    def cni_id(self, container: str) -> str:
        """How ``ctr`` names a container to CNI plugins."""
        return f"{self.name}-{container}"

"""The plugin through libcni, the library that container runtimes ask plugins with (tests/go/libcni)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.netns.cni.node import SHIM, CniNode, reaches

PROGRAM = Path(__file__).parents[2] / "go" / "libcni"

# The first build compiles Go's own library too.
pytestmark = [pytest.mark.needs("command:go"), pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def libcni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; go fetches the library the first time."""
    made = tmp_path_factory.mktemp("libcni") / "libcni"
    subprocess.run(["go", "build", "-o", made, "."], cwd=PROGRAM, check=True, timeout=300)
    return made


class Runtime:
    """A runtime that knows nothing of meshd but a conflist and a directory of plugins."""

    def __init__(self, program: Path, node: CniNode, version: str) -> None:
        self.program = program
        directory = node.agent.directory
        self.plugins = directory / "bin"
        self.plugins.mkdir()
        (self.plugins / "meshd-cni").symlink_to(SHIM)
        self.cache = directory / "cache"
        self.conflist = directory / "mesh.conflist"
        plugin = {"type": "meshd-cni", "socket": str(node.socket)}
        self.conflist.write_text(json.dumps({"cniVersion": version, "name": "mesh", "plugins": [plugin]}))

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [self.program, self.conflist, self.plugins, self.cache, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(params=["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def runtime(libcni: Path, node: CniNode, request: pytest.FixtureRequest) -> Runtime:
    return Runtime(libcni, node, request.param)


@pytest.fixture
def newest(libcni: Path, node: CniNode) -> Runtime:
    return Runtime(libcni, node, "1.1.0")


def test_libcni_accepts_the_plugin_and_understands_its_result(runtime: Runtime, node: CniNode) -> None:
    netns = node.pod("one")
    assert runtime.ask("validate").returncode == 0
    added = runtime.ask("add", "one", str(netns), "eth0")
    assert added.returncode == 0, added.stderr
    addresses = [each["address"] for each in json.loads(added.stdout)["ips"]]
    assert addresses == ["10.77.1.1/32", "fd77:0:0:1::1/128"]
    assert reaches(netns, "192.168.70.1")
    assert runtime.ask("del", "one", str(netns), "eth0").returncode == 0
    node.agent.wait(lambda: node.links() == [])


def test_libcni_checks_what_it_added_and_hears_what_is_wrong(newest: Runtime, node: CniNode) -> None:
    netns = node.pod("one")
    newest.ask("add", "one", str(netns), "eth0")
    assert newest.ask("check", "one", str(netns), "eth0").stderr == ""
    node.ask("DEL", "one", netns)
    missing = newest.ask("check", "one", str(netns), "eth0")
    assert (missing.returncode, json.loads(missing.stderr)["code"]) == (1, 3)


def test_libcni_collects_garbage(newest: Runtime, node: CniNode) -> None:
    for name in ("kept", "lost"):
        assert newest.ask("add", name, str(node.pod(name)), "eth0").returncode == 0
    done = newest.ask("gc", "kept/eth0")
    assert done.returncode == 0, done.stderr
    node.agent.wait(lambda: len(node.links()) == 1)


def test_libcni_hears_the_status(newest: Runtime, node: CniNode) -> None:
    assert newest.ask("status").returncode == 0
    node.netns.write_sysctl("net/ipv6/conf/all/forwarding", "0")
    assert json.loads(newest.ask("status").stderr)["code"] == 51
    node.agent.kill()
    assert json.loads(newest.ask("status").stderr)["code"] == 50

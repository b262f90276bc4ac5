"""The container image, made from this tree: what is in it runs, with no more rights than the DaemonSet asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd import __version__
from meshd.kernel import features
from tests.netns.cni.node import CniNode, reaches
from tests.netns.runtime import agent_image
from tests.netns.runtime.agent_image import PROGRAMS
from tests.netns.runtime.containerd import Containerd

# Making the image takes a minute on a machine of its own, the first time.
pytestmark = [
    pytest.mark.needs("command:containerd", "command:runc", "command:mmdebstrap"),
    pytest.mark.timeout(900),
]

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import clustermesh, meshd
failed = []
for package in (clustermesh, meshd):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError as error:
                failed.append(f"{found.name}: {error}")
uncompiled = [
    name for name, module in sys.modules.items()
    if getattr(module, "__cached__", None) and not pathlib.Path(module.__cached__).exists()
]
print(*failed, *(f"{name} is not compiled" for name in uncompiled), sep="\\n")
"""
STATUS = """
import json
said = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([said[name].strip() for name in ("CapEff", "Seccomp")]))
"""


@pytest.fixture
def runtime(tmp_path: Path, unique_name: str) -> Iterator[tuple[Containerd, Path]]:
    """A runtime that has the image, on a node whose agent does not run yet; and a pod's namespace, which is there before
    the runtime's mounts are."""
    node = CniNode(tmp_path / "node", unique_name)
    try:
        pod = node.pod("one")
        made = Containerd(node)
        try:
            made.start()
            agent_image.load(made)
            yield made, pod
        finally:
            made.close()
    finally:
        node.close()


def test_the_programs_of_the_image_run_without_a_root_to_write_to(runtime: tuple[Containerd, Path]) -> None:
    made, _ = runtime
    said = agent_image.run(made, "version", f"{PROGRAMS}/meshd", "--version")
    assert said.stdout == f"meshd {__version__}\n", said.stderr
    said = agent_image.run(made, "client", f"{PROGRAMS}/meshctl", "version", "--client")
    assert said.stdout == f"meshctl {__version__}\n", said.stderr
    said = agent_image.run(made, "all", f"{PROGRAMS}/python3", "-c", IMPORT_ALL)
    assert (said.stdout.strip(), said.stderr) == ("", "")


def test_nothing_that_installs_or_compiles_is_in_the_image(runtime: tuple[Containerd, Path]) -> None:
    made, _ = runtime
    # Not all of it: the test's own directory is mounted there, and has the runtime's copies of the image.
    look = "command -v pip apt-get gcc cc; find /usr /opt /etc -name pip -o -name setuptools -o -name ziglang"
    assert agent_image.run(made, "look", "sh", "-c", look).stdout == ""
    shims = "find /opt -name 'meshd-cni.*' -perm -u+x | wc -l"
    assert agent_image.run(made, "shims", "sh", "-c", shims).stdout == "2\n"


def test_a_container_of_the_daemon_set_has_its_capabilities_and_a_seccomp_filter(
    runtime: tuple[Containerd, Path],
) -> None:
    made, _ = runtime
    said = agent_image.run(made, "rights", f"{PROGRAMS}/python3", "-c", STATUS)
    effective, seccomp = json.loads(said.stdout)
    assert int(effective, 16).bit_count() == len(agent_image.capabilities())
    assert seccomp == "2"


def test_an_agent_with_the_rights_of_the_daemon_set_has_all_that_the_kernel_has_and_connects_pods(
    runtime: tuple[Containerd, Path],
) -> None:
    made, pod = runtime
    node = made.node
    process = made.spawn(*agent_in(made), log="agent.log")

    def answers() -> bool:
        assert process.poll() is None, (made.directory / "agent.log").read_text()[-3000:]
        return node.ask("STATUS").status == 0

    node.agent.wait(answers)
    answer = node.ask("ADD", "one", pod)
    assert answer.status == 0, answer.said
    assert answer.addresses == ["10.77.1.1", "fd77:0:0:1::1"]
    assert all(reaches(node.netns, address) for address in answer.addresses)
    assert reaches(pod, "192.168.70.1")
    status = node.agent.status()
    assert status is not None
    seen = {feature.name: feature.present for feature in status.features}
    assert seen == {feature.name: feature.present for feature in features.probe()}


@pytest.mark.parametrize("taken", agent_image.capabilities())
def test_the_daemon_set_asks_for_no_capability_that_an_agent_can_do_without(
    runtime: tuple[Containerd, Path], taken: str
) -> None:
    made, pod = runtime
    granted = [each for each in agent_image.capabilities() if each != taken]
    process = made.spawn(*agent_in(made, granted), log="agent.log")
    node = made.node
    node.agent.wait(lambda: process.poll() is not None or node.ask("STATUS").status == 0)
    if process.poll() is None:
        assert node.ask("ADD", "one", pod).status != 0


def agent_in(runtime: Containerd, granted: list[str] | None = None) -> list[str]:
    """The command of an agent in a container."""
    node = runtime.node
    config = node.agent.configuration(cni={"socket": str(node.socket)} | node.options)
    program = [f"{PROGRAMS}/meshd", "--config", str(config)]
    return agent_image.command(runtime, "agent", *program, granted=granted)

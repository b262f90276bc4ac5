"""What the agent refuses to start with, each in one sentence that says what to do; the agent that runs is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns.agent.agent_node import AgentNode
from tests.unprivileged import NOBODY

WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
NO_CGROUP = ("unshare", "--mount", "sh", "-c", 'umount -l -a -t cgroup2 && exec "$@"', "sh")
PRIVILEGES = (
    "meshd may not load BPF programs: run it as root or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
)


def meshd(*arguments: str | Path, within: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit status and what it said, of an agent that should end by itself."""
    command = [*within, sys.executable, "-m", "meshd.agent", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [(), ("cleanup",)])
@pytest.mark.parametrize("within", [NOBODY, WITHOUT_CAPABILITIES])
def test_without_privileges_it_says_which_it_needs(
    node: AgentNode, within: tuple[str, ...], command: tuple[str, ...]
) -> None:
    assert meshd("--config", node.configuration(), *command, within=within) == (1, f"meshd: {PRIVILEGES}\n")


def test_without_cgroup_v2_it_says_how_to_mount_it(node: AgentNode) -> None:
    status, said = meshd("--config", node.configuration(), within=NO_CGROUP)
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("meshd: cgroup v2 is not mounted: `mount -t cgroup2 none ")


def test_pins_that_would_be_in_no_bpffs_are_refused(node: AgentNode) -> None:
    elsewhere = node.directory / "no-bpffs"
    assert meshd("--config", node.configuration(bpffs=str(elsewhere))) == (
        1,
        f"meshd: {elsewhere} is in no bpffs, so nothing could outlive meshd: `mount -t bpf bpf /sys/fs/bpf`, "
        "or choose a directory in one (bpffs)\n",
    )


def test_a_configured_cgroup_that_is_not_there_is_named(node: AgentNode) -> None:
    missing = node.cgroup / "missing"
    assert meshd("--config", node.configuration(cgroup=str(missing))) == (
        1,
        f"meshd: {missing} is no cgroup v2 directory: make it, or name another (cgroup)\n",
    )


@pytest.mark.parametrize("shared", ["runDir", "stateDir", "bpffs"])
def test_a_second_agent_does_not_share_a_directory_with_one_that_runs(node: AgentNode, shared: str) -> None:
    node.start()
    running = node.status()
    own = {
        "runDir": str(node.directory / "run2"),
        "stateDir": str(node.directory / "state2"),
        "bpffs": str(node.bpffs / "node2"),
    }
    del own[shared]
    status, said = meshd("--config", node.configuration("second.yaml", **own))
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("meshd: another meshd")
    after = node.status()
    assert running is not None
    assert after is not None
    assert after.instance == running.instance


def test_cleanup_while_the_agent_runs_is_refused_and_afterwards_says_what_it_removed(node: AgentNode) -> None:
    node.start()
    config = node.configuration()
    assert meshd("cleanup", "--config", config)[0] == 1
    node.kill()
    assert meshd("cleanup", "--config", config) == (
        0,
        f"meshd: removed 10 hooks and 13 maps below {node.bpffs / 'node'}\n",
    )
    assert meshd("--config", config, "cleanup")[1].startswith("meshd: removed 0 hooks and 0 maps")

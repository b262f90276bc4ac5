"""A lab comes up whole, and goes without a trace, whatever moment it is interrupted in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from meshd.lab.layout import Places, clusters
from meshd.lab.processes import tree
from meshd.lab.record import LabError
from meshd.lab.session import bring_up
from meshd.lab.spec import DEFAULT, load
from tests.e2e.traces import command, lab, lines_of, places, traces, wait_for

EXAMPLES = Path(__file__).parents[2] / "deploy" / "lab"
SIXTEEN_PODS = EXAMPLES / "sixteen-pods.yaml"

# How far `up` has come: each is true from one step on, in this order.
MOMENTS: dict[str, Callable[[Places], object]] = {
    "the lab is recorded": lambda lab: lab.record.exists(),
    "the fabric is being made": lambda lab: lab.fabric_netns.exists(),
    "nodes are being made": lambda lab: lab.netns("cm-2-n1").exists(),
    "etcd is starting": lambda lab: tree(lab.cgroup),
    "a BPF file system is mounted": lambda lab: (lab.run / "bpf" / "cm-1-n1" / "maps.debug").exists(),
    "hooks are attached": lambda lab: list(lab.run.glob("bpf/cm-2-n2/meshd/links/*")),
    "pods are being made": lambda lab: lab.pod_netns("cm-1", "rebel-base-3").exists(),
    "servers are starting": lambda lab: tree(lab.cgroup / "cm-2" / "cm-2-n1" / "pods"),
}


@pytest.fixture
def own(run_name: str, request: pytest.FixtureRequest) -> Iterator[Places]:
    """Where the test's lab is; gone afterwards, also if the test failed."""
    yield places(run_name)
    lab("down", "--id", run_name)


def _up(own: Places) -> subprocess.Popen[str]:
    arguments = command("up", "--id", own.id, "-f", str(SIXTEEN_PODS))
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _everybody_answered(log: Path) -> bool:
    """Both clusters answered over IPv4 and over IPv6 (format: x_wing.py); the last line may be half written."""
    seen = {tuple(line.split()[2:5]) for line in lines_of(log)}
    return {(family, "ok", cluster) for family in ("4", "6") for cluster in ("cm-1", "cm-2")} <= seen


def _pod_links(own: Places) -> dict[str, int]:
    """How many interfaces of pods the meshd of each node has made, by its name for them."""
    found = {}
    for node in (node for cluster in clusters(load(SIXTEEN_PODS)) for node in cluster.nodes):
        with Netns.open(own.node_netns(node)) as netns:
            found[node.name] = sum(name.startswith("mpod") for name in netlink.link_names(netns))
    return found


def test_two_clusters_of_two_nodes_and_sixteen_pods_come_up_serve_and_go_without_a_trace(own: Places) -> None:
    up = lab("up", "--id", own.id, "-f", str(SIXTEEN_PODS))
    assert up.returncode == 0, up.stdout + up.stderr
    status = lab("status", "--id", own.id)
    assert status.returncode == 0, status.stdout
    assert (
        sum(line.startswith("pod ") and line.endswith("running") for line in status.stdout.splitlines()) == 16
    )
    assert (
        sum(line.startswith("node ") and line.endswith("settled") for line in status.stdout.splitlines()) == 4
    )

    assert _pod_links(own) == {"cm-1-n1": 4, "cm-1-n2": 4, "cm-2-n1": 4, "cm-2-n2": 4}

    hosts = lab(
        "exec", "--id", own.id, "cm-2/x-wing-1", "--", "printenv", "REBEL_BASE_SERVICE_HOSTS"
    ).stdout.strip()
    assert [":" in host for host in hosts.split(",")] == [False, True]
    in_cgroup = lab("exec", "--id", own.id, "cm-2/x-wing-1", "--", "cat", "/proc/self/cgroup").stdout
    assert f"0::/{own.id}/cm-2/cm-2-n1/pods/x-wing-1" in in_cgroup.splitlines()

    for client in ("cm-1/x-wing-1", "cm-2/x-wing-4"):
        log = own.pod(*client.split("/")) / "requests.log"
        wait_for(
            partial(_everybody_answered, log), f"an answer of both clusters over both families to {client}"
        )
        assert [line for line in lines_of(log) if " lost " in line] == []

    down = lab("down", "--id", own.id)
    assert (down.returncode, traces(own)) == (0, [])


@pytest.mark.parametrize("moment", MOMENTS)
def test_up_that_is_interrupted_leaves_nothing(own: Places, moment: str) -> None:
    up = _up(own)
    wait_for(lambda: MOMENTS[moment](own), moment)
    up.send_signal(signal.SIGINT)
    output = up.communicate()[0]
    assert (up.returncode, traces(own)) == (130, []), output


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_removes_what_a_killed_up_left(own: Places, moment: str) -> None:
    up = _up(own)
    wait_for(lambda: MOMENTS[moment](own), moment)
    up.kill()
    up.communicate()
    assert traces(own) != []
    down = lab("down", "--id", own.id)
    assert (down.returncode, traces(own)) == (0, []), down.stderr


def _children() -> set[str]:
    """Ids of this process's children, zombies too."""
    return {
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    }


async def test_up_that_fails_in_the_middle_leaves_its_caller_no_child_and_no_task(
    own: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho 'no space left on device' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    children, tasks = _children(), asyncio.all_tasks()
    with pytest.raises(LabError, match=r"(?s)etcd.* ended with 1; its log ends:.*no space left on device"):
        await bring_up(own, DEFAULT, lambda _line: None)
    assert (_children() - children, asyncio.all_tasks() - tasks, traces(own)) == (set(), set(), [])


def test_the_next_lab_removes_one_whose_maker_was_killed(own: Places, run_name: str) -> None:
    up = _up(own)
    wait_for(lambda: MOMENTS["etcd is starting"](own), "a process")
    up.kill()
    up.communicate()
    other = places(f"{run_name}b")
    following = subprocess.Popen(command("up", "--id", other.id), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: not traces(own), "the removal of the first lab")
    following.send_signal(signal.SIGINT)
    output = following.communicate()[0]
    assert f"lab {own.id} was left behind by a process that died; it is removed" in output
    assert traces(other) == []


def test_a_lab_that_is_being_made_is_not_taken_down_under_its_maker(own: Places) -> None:
    up = _up(own)
    wait_for(lambda: MOMENTS["the fabric is being made"](own), "the fabric")
    down = lab("down", "--id", own.id)
    up.send_signal(signal.SIGINT)
    up.communicate()
    assert (down.returncode, down.stderr) == (
        1,
        f"meshctl lab: lab {own.id} is in the hands of another process (up, demo or down); end that first\n",
    )


def test_a_name_that_means_nothing_is_answered_with_those_that_do(own: Places) -> None:
    missing = lab("status", "--id", own.id)
    assert missing.returncode == 1
    assert f"there is no lab {own.id}" in missing.stderr

"""Agents are killed, cut off, upgraded and downgraded on a real cluster under load: of its requests none is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from scripts.kubernetes.cluster import RunningCluster, RunningNode
from scripts.kubernetes.processes import stop
from tests import another_build
from tests.kubernetes.installing import ON_NODES, meshctl
from tests.kubernetes.load import agent_containers, another_image
from tests.kubernetes.load.load import Load, Report

pytestmark = ON_NODES


@pytest.fixture
def load(installed: RunningCluster) -> Iterator[Load]:
    """On two nodes with meshd as `meshctl kube install` puts it there, and without a kube-proxy."""
    made = Load(installed)
    yield made
    made.close()


def under_load(load: Load, during: Callable[[], None]) -> Report:
    """What clients saw while ``during`` ran."""
    with load.running() as seen:
        during()
    return Report(seen)


def nothing_lost(report: Report) -> None:
    """Each request was answered, there were many, from both nodes, and who had a backend kept it."""
    assert report.lost() == [], report
    assert report.too_few() == [], report
    assert all(len(servers) == 2 for servers in report.answered_by("service").values()), report
    assert all(len(servers) == 1 for servers in report.answered_by("sticky").values()), report


def killed(cluster: RunningCluster) -> None:
    """Every agent, at once, and another is in each one's place."""
    before = [(node, agent_containers.kill(node)) for node in cluster.nodes]
    for node, container in before:
        cluster.wait(
            f"another agent on {node.name}",
            lambda node=node, container=container: agent_containers.is_settled(node, but=container),
        )


@pytest.mark.long
@pytest.mark.parametrize("away_s", [10.0, 60.0])
def test_agents_that_are_killed_while_nobody_can_tell_them_anything_cost_no_request(
    installed: RunningCluster, load: Load, away_s: float
) -> None:
    def alone() -> None:
        # One that runs on alone takes it that nodes of which it hears nothing are gone, and their pods with them.
        manager = installed.control.controller_manager
        stop(manager, installed.started)
        # An API server whose etcd is gone hangs when it is to end.
        installed.stop_api_server()
        installed.stop_etcd()
        until_s = time.monotonic() + away_s
        try:
            killed(installed)
            for node in installed.nodes:
                said = str(agent_containers.status(node)["warnings"])
                assert f"services away since {time.gmtime().tm_year}-" in said, said
            while time.monotonic() < until_s:
                assert all(agent_containers.is_ready(node) for node in installed.nodes)
                time.sleep(1)
        finally:
            installed.start_etcd()
            installed.start_api_server()
            installed.started.start(manager)
        for node in installed.nodes:
            installed.wait(f"{node.name} to hear of it", lambda node=node: is_told(node))

    nothing_lost(under_load(load, alone))


def is_told(node: RunningNode) -> bool:
    """Whether the agent hears of the API server again."""
    said = agent_containers.status(node)
    return said is not None and "away since" not in str(said["warnings"])


@pytest.mark.long
@pytest.mark.parametrize("times", [3])
def test_agents_that_are_killed_again_and_again_cost_no_request(
    installed: RunningCluster, load: Load, times: int
) -> None:
    def again_and_again() -> None:
        for _ in range(times):
            killed(installed)

    nothing_lost(under_load(load, again_and_again))


@pytest.mark.long
def test_a_build_with_other_layouts_follows_and_the_older_one_comes_back_without_a_lost_request(
    installed: RunningCluster, load: Load
) -> None:
    archive = another_image.archive()
    for node in installed.nodes:
        node.import_image(archive)
    before = layouts(installed)

    def there_and_back() -> None:
        upgraded(installed, f"meshd:{another_image.TAG}")
        # Of each node and map one layout, and of these maps another one.
        assert {name for name, number in layouts(installed) ^ before} == set(another_build.MAPS)
        upgraded(installed, "meshd:test")
        assert layouts(installed) == before

    nothing_lost(under_load(load, there_and_back))


def upgraded(cluster: RunningCluster, image: str) -> None:
    done = meshctl(cluster, "upgrade", "--image", image, "--without-kube-proxy", "--no-connectivity-test")
    assert done.returncode == 0, done.stdout + done.stderr
    for node in cluster.nodes:
        cluster.wait(f"the agent of {node.name}", lambda node=node: agent_containers.is_settled(node))


def layouts(cluster: RunningCluster) -> set[tuple[str, str]]:
    """Maps that are pinned on nodes, and the hash of their layouts; of drafts a program needs one while it runs."""
    pins = [node.run("ls", "/sys/fs/bpf/meshd/maps").split() for node in cluster.nodes]
    assert set(pins[0]) == set(pins[1])
    found = {tuple(each.rsplit("_", 1)) for each in pins[0]}
    return {(name, number) for name, number in found if "draft" not in name}

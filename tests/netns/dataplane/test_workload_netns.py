"""A workload's namespace: its cookie, and a way to its sockets that outlives its path."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.dataplane.workload_netns import WorkloadNetns
from meshd.kernel.netns import Netns, remove_named
from meshd.kernel.sockets import UDP
from meshd.model import Workload
from meshd.model.workload import PodLink

ALL_STATES = 0xFFF


@pytest.fixture
def path(run_name: str) -> Iterator[Path]:
    """Where a namespace may be named; nothing is there afterwards."""
    where = Path("/run/netns", f"{run_name}-pod")
    yield where
    if where.exists():
        remove_named(where)


@pytest.fixture
def known() -> Iterator[WorkloadNetns]:
    opened = WorkloadNetns()
    yield opened
    opened.close()


def workload(path: Path, *seen: int) -> Workload:
    """A pod at ``path`` whose links were made in namespaces with the cookies ``seen``."""
    links = tuple(PodLink(7, cookie, "02:00:00:00:00:01", "02:00:00:00:00:02", ()) for cookie in seen)
    return Workload("pods", "client", "cni", str(path), links=links)


def test_sockets_are_found_when_the_path_went_before_anybody_asked(path: Path, known: WorkloadNetns) -> None:
    with Netns.create_named(path) as pod:
        cookie = known.cookie_of("pods/client", workload(path, pod.cookie()))
        held = pod.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with held:
            held.bind(("0.0.0.0", 4321))
            pod.close()
            remove_named(path)
            found = known.by_cookie()[cookie].diag.all(UDP, ALL_STATES)
            assert [each.local.port for each in found] == [4321]


@pytest.mark.parametrize("links", [0, 1, 2])
def test_the_cookie_is_the_namespaces_whoever_knew_it_before(
    path: Path, known: WorkloadNetns, links: int
) -> None:
    with Netns.create_named(path) as pod:
        seen = [pod.cookie()] * links
        assert pod.cookie() == known.cookie_of("pods/client", workload(path, *seen))


def test_links_that_saw_different_namespaces_are_not_believed(path: Path, known: WorkloadNetns) -> None:
    with Netns.create_named(path) as pod:
        assert pod.cookie() == known.cookie_of("pods/client", workload(path, pod.cookie(), 1))


def test_another_namespace_at_the_same_path_is_noticed(path: Path, known: WorkloadNetns) -> None:
    with Netns.create_named(path) as before:
        first = known.cookie_of("pods/client", workload(path, before.cookie()))
        remove_named(path)
    with Netns.create_named(path) as after:
        second = known.cookie_of("pods/client", workload(path, first))
        assert after.cookie() == second

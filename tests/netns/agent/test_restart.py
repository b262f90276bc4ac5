"""The agent dies and starts again under load: nobody notices. And the same load does notice when something is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from build_backend import bpf
from meshd.kernel.links import Link
from tests.netns.agent.agent_node import PORT, VIP, AgentNode, endpoint_slice, lines, service

BACKENDS = ("127.0.0.11", "127.0.0.12")
CLIENTS = 50
WRITTEN = {"sources", "members", "slots", "frontends", "workloads"}


def under_load(node: AgentNode, during: Callable[[], None]) -> dict[str, dict[str, int]]:
    """What 50 client processes saw while ``during`` ran: answers by backend, failures by reason."""
    server = node.spawn("server.py", *BACKENDS)
    assert next(lines(server)) == "listening"
    clients = node.spawn("clients.py", str(CLIENTS), VIP, str(PORT))
    output = lines(clients)
    assert next(output) == "started"
    during()
    clients.send_signal(signal.SIGTERM)
    result: dict[str, dict[str, int]] = json.loads(next(output))
    assert sum(map(sum, (each.values() for each in result.values()))) >= 20 * CLIENTS
    return result


def nothing_lost(result: dict[str, dict[str, int]]) -> bool:
    return set(result["answers"]) == set(BACKENDS) and result["failures"] == {}


def settled(node: AgentNode) -> bool:
    status = node.status()
    return status is not None and status.pending == 0 and all(s.complete_once for s in status.sources)


def restarted(node: AgentNode, times: int = 3, **options: object) -> None:
    for _ in range(times):
        node.kill()
        node.start(**options)
        node.wait(lambda: settled(node))


def started(node: AgentNode) -> None:
    node.write_service(*BACKENDS)
    node.start()
    node.wait(lambda: settled(node))


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.long)])
def test_a_killed_agent_that_starts_again_costs_no_connection(node: AgentNode, times: int) -> None:
    started(node)
    assert nothing_lost(under_load(node, lambda: restarted(node, times)))


def test_an_object_of_another_build_takes_over_without_losing_a_connection(
    node: AgentNode, tmp_path: Path
) -> None:
    other = another_build(tmp_path)
    started(node)
    before = program_ids(node)
    result = under_load(node, lambda: restarted(node, bpfObject=str(other)))
    assert nothing_lost(result)
    assert not before & program_ids(node)


@pytest.mark.parametrize("away_s", [0.5, pytest.param(60.0, marks=pytest.mark.long)])
def test_sources_that_are_away_at_the_start_lose_no_row(node: AgentNode, away_s: float) -> None:
    node.write("stale", service("stale", "10.96.0.99"), endpoint_slice("stale", *BACKENDS))
    started(node)

    def directory_away() -> None:
        node.kill()
        away = node.directory / "away"
        node.manifests.rename(away)
        node.start()
        rows = map_rows(node)
        assert rows["frontends"] == 2
        (away / "stale.yaml").unlink()
        until = time.monotonic() + away_s
        while time.monotonic() < until:
            assert map_rows(node) == rows
        away.rename(node.manifests)
        node.wait(lambda: map_rows(node)["frontends"] == 1)

    assert nothing_lost(under_load(node, directory_away))


def test_the_snapshot_missing_as_well_makes_no_difference(node: AgentNode) -> None:
    started(node)

    def directory_and_state_away() -> None:
        node.kill()
        node.manifests.rename(node.directory / "away")
        shutil.rmtree(node.directory / "state")
        node.start()
        assert map_rows(node)["frontends"] == 1
        (node.directory / "away").rename(node.manifests)
        node.wait(lambda: settled(node))

    assert nothing_lost(under_load(node, directory_and_state_away))


@pytest.mark.parametrize("sabotage", ["hook", "service"])
def test_the_load_would_notice(node: AgentNode, sabotage: str) -> None:
    started(node)

    def hurt() -> None:
        if sabotage == "hook":
            link = Link.open_pinned(node.bpffs / "node" / "links" / "socket_lb_connect4")
            assert link is not None
            link.detach()
            link.close()
        else:
            node.write_service()
            node.wait(lambda: map_rows(node)["slots"] == 0)

    assert under_load(node, hurt)["failures"] != {}


def test_after_a_reboot_the_snapshot_serves_until_the_source_is_there(node: AgentNode) -> None:
    started(node)
    node.kill(signal.SIGTERM)
    for kind in ("links", "maps"):
        shutil.rmtree(node.bpffs / "node" / kind)
    node.manifests.rename(node.directory / "away")
    node.start()
    assert nothing_lost(under_load(node, lambda: None))


def map_rows(node: AgentNode) -> dict[str, int]:
    """Rows of the maps that the agent writes."""
    status = node.status()
    assert status is not None
    return {each.name: each.entries for each in status.maps if each.name in WRITTEN}


def program_ids(node: AgentNode) -> set[int]:
    found = set()
    for pin in (node.bpffs / "node" / "links").iterdir():
        link = Link.open_pinned(pin)
        assert link is not None
        found.add(link.info().program_id)
        link.close()
    return found


def another_build(directory: Path) -> Path:
    """The object of a neighbouring build: other instructions, the same layouts."""
    root, made = directory / "neighbour", directory / "other.bpf.o"
    shutil.copytree(bpf.ROOT / "bpf", root / "bpf")
    header = root / "bpf" / "lib" / "balance.h"
    text = header.read_text()
    assert "#define LIST_READS 4" in text
    header.write_text(text.replace("#define LIST_READS 4", "#define LIST_READS 5"))
    bpf.build(root, made)
    return made

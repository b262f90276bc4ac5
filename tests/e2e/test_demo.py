"""The demo shows a failover without a lost request, and fails when the dataplane does not do its part."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from meshd.kernel import netlink
from meshd.kernel.links import Link
from meshd.kernel.netns import Netns
from meshd.lab.demo.phases import PHASES
from meshd.lab.demo.run import demo
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from tests.e2e.traces import command, lab, places, traces


@pytest.fixture
def own(run_name: str) -> Iterator[Places]:
    """Where the test's lab is; gone afterwards, also if the test failed."""
    yield places(run_name)
    lab("down", "--id", run_name)


def _report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "report.json").read_text())
    return read


# Longer than the default: all eight phases take more than a minute on a machine that does nothing else.
@pytest.mark.timeout(300)
def test_the_demo_loses_no_request_and_shows_all_phases(own: Places, tmp_path: Path) -> None:
    done = subprocess.run(
        command("demo", "--id", own.id, "--out", str(tmp_path)), capture_output=True, text=True, check=False
    )
    report = _report(tmp_path)
    assert (done.returncode, report["ok"], report["lost"]) == (0, True, 0), done.stdout + done.stderr
    assert [phase["name"] for phase in report["phases"]] == [phase.name for phase in PHASES]
    assert report["phases"][5]["before_switch"] > 0
    assert report["phases"][7]["lost"] > 0
    assert sum(phase["requests"] for phase in report["phases"]) == report["requests"]
    assert (tmp_path / "timeline.svg").exists()
    assert traces(own) == []


async def _take_the_socket_hooks_off(lab: Lab, phase: int) -> None:
    if phase != 1:
        return
    for pin in lab.places.run.glob("bpf/*/meshd/links/*connect*"):
        link = Link.open_pinned(pin)
        assert link is not None
        link.detach()
        link.close()


class TakenOff:
    """The hooks, and from every pod's link the programs that translate packets, all through the second phase: agents put
    back what they miss, and requests wait that long."""

    def __init__(self) -> None:
        self._taking: asyncio.Task[None] | None = None

    async def __call__(self, lab: Lab, phase: int) -> None:
        await _take_the_socket_hooks_off(lab, phase)
        if phase == 1:
            self._taking = asyncio.create_task(self._take_off(lab))
        elif self._taking is not None:
            self._taking.cancel()

    async def _take_off(self, lab: Lab) -> None:
        while True:
            for node in lab.nodes:
                await asyncio.to_thread(_take_programs_off, lab.places.node_netns(node))
            await asyncio.sleep(0.2)


def _take_programs_off(node: Path) -> None:
    with Netns.open(node) as netns:
        links = [name for name in netlink.link_names(netns) if name.startswith("mpod")]
        netlink.in_netns(netns, "programs of pods", partial(_take_off_links, links))


def _take_off_links(links: list[str], route: Any) -> None:  # Any: pyroute2 has no types
    for name in links:
        # One that goes meanwhile takes its programs with it, and where they are off they cannot be taken off.
        with contextlib.suppress(NetlinkError):
            for index in route.link_lookup(ifname=name):
                route.tc("del", "clsact", index=index)


async def test_the_demo_fails_when_hooks_and_programs_are_taken_off_in_its_second_phase(
    own: Places, tmp_path: Path
) -> None:
    status = await demo(own, tmp_path, PHASES[:2], TakenOff())
    report = _report(tmp_path)
    assert (status, report["ok"]) == (1, False), report
    assert (report["phases"][0]["lost"], report["lost"] > 0) == (0, True), report
    assert any("requests were lost" in problem for problem in report["phases"][1]["problems"])
    assert traces(own) == []


async def test_without_the_socket_hooks_packets_to_services_are_translated_and_nothing_is_lost(
    own: Places, tmp_path: Path
) -> None:
    status = await demo(own, tmp_path, PHASES[:2], _take_the_socket_hooks_off)
    assert (status, _report(tmp_path)["ok"]) == (0, True), _report(tmp_path)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_nothing(own: Places, tmp_path: Path, ending: signal.Signals) -> None:
    run = _demo_in_a_pipe(own, tmp_path)
    run.send_signal(ending)
    run.communicate()
    assert (run.returncode, traces(own)) == (130, [])


def test_a_demo_whose_reader_goes_away_leaves_nothing(own: Places, tmp_path: Path) -> None:
    run = _demo_in_a_pipe(own, tmp_path)
    assert run.stdout is not None
    run.stdout.close()
    assert (run.wait(), traces(own)) == (1, [])


def _demo_in_a_pipe(own: Places, out: Path) -> subprocess.Popen[str]:
    """A demo that has begun its first phase."""
    arguments = command("demo", "--id", own.id, "--out", str(out))
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("phase 1 "):
            break
    return run

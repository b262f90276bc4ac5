"""What meshctl shows of an agent, in every form; and what it goes on showing."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import yaml

from meshd.ctl.command_line import FORMATS
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    Frontend,
    Node,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from tests.fakes.agent import serving
from tests.unit.ctl.running import WEB, meshctl, start


async def test_status_says_what_to_worry_about(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [Service(WEB, "manifests")])
        agent.mesh.mark_stale("cluster:cm-2", "no route to 10.0.0.2")
        done = await meshctl(agent, "status")
        assert done.status == 0
        assert "n1 of cm-1: meshd 0.1.0 (abc123)" in done.out
        assert "! map slots is 95% full; raise maps.slots" in done.out
        assert "source cluster:cm-2 is out of reach" in done.out
        assert "not loaded: needs fentry" in done.out
        found = json.loads((await meshctl(agent, "status", "-o", "json")).out)
        assert [one["name"] for one in found["sources"]] == ["api", "cluster:cm-2", "manifests"]


async def test_of_a_node_port_on_many_nodes_a_list_shows_the_beginning(tmp_path: Path) -> None:
    nodes = [Frontend(parse_address(f"192.0.2.{number}"), 30080, Protocol.TCP) for number in range(1, 9)]
    async with serving(tmp_path) as agent:
        agent.mesh.replace("kubernetes", [Service(WEB, "kubernetes", external=tuple(nodes))])
        shown = (await meshctl(agent, "service", "list")).out
        assert "192.0.2.3:30080/TCP,+5" in shown
        assert "192.0.2.4" not in shown


async def test_backends_out_of_reach_are_marked_stale(tmp_path: Path) -> None:
    backend = Backend(parse_address("10.9.0.1"), (BackendPort("", Protocol.TCP, 80),))
    async with serving(tmp_path) as agent:
        agent.mesh.replace("cluster:cm-2", [BackendSlice(WEB, "x", "cluster:cm-2", "cm-2", (backend,))])
        agent.mesh.mark_stale("cluster:cm-2", "gone")
        assert "cluster:cm-2 (stale)" in (await meshctl(agent, "backend", "list")).out


@pytest.mark.parametrize("what", ["node", "cluster", "map"])
async def test_every_list_has_every_form(tmp_path: Path, what: str) -> None:
    async with serving(tmp_path) as agent:
        assert (await meshctl(agent, what, "list")).out.startswith("N" if what != "node" else "CLUSTER")
        assert (await meshctl(agent, what, "list", "-o", "wide")).status == 0
        as_json = json.loads((await meshctl(agent, what, "list", "-o", "json")).out)
        as_yaml = yaml.safe_load((await meshctl(agent, what, "list", "-o", "yaml")).out)
        assert as_json == as_yaml
        assert list(as_json) == [f"{what}s"]


async def test_a_map_is_dumped_an_entry_a_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        lines = (await meshctl(agent, "map", "dump", "slots", "-o", "json")).out.splitlines()
        assert len(lines) == 1200
        assert json.loads(lines[5]) == {
            "key": {"number": 5, "address": "0a600001"},
            "value": {"weight": 2**63 + 5},
        }
        as_yaml = yaml.safe_load((await meshctl(agent, "map", "dump", "slots", "-o", "yaml")).out)
        assert as_yaml == [json.loads(line) for line in lines]
        wide = (await meshctl(agent, "map", "dump", "slots", "-o", "wide")).out
        assert wide == (await meshctl(agent, "map", "dump", "slots")).out


async def test_a_watch_shows_what_is_there_then_what_changes_until_it_is_interrupted(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [Service(WEB, "manifests")])
        process = await start(agent, "watch", "services", "-o", "json")
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        assert (first["type"], first["service"]["name"]) == ("EVENT_TYPE_PUT", "web")
        agent.mesh.replace("manifests", [])
        second = json.loads(await process.stdout.readline())
        assert (second["type"], second["service"]["name"]) == ("EVENT_TYPE_DELETE", "web")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


async def test_a_watch_goes_on_with_the_next_agent(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        process = await start(agent, "watch", "services", "-o", "json")
        assert process.stdout is not None
        agent.mesh.replace("manifests", [Service(WEB, "manifests")])
        assert json.loads(await process.stdout.readline())["service"]["name"] == "web"
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [Service(ServiceName("default", "new"), "manifests")])
        assert json.loads(await process.stdout.readline())["service"]["name"] == "new"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0


@pytest.mark.parametrize("what", ["services", "backends", "nodes", "clusters"])
async def test_a_watch_has_every_form(tmp_path: Path, what: str) -> None:
    backend = Backend(parse_address("10.9.0.1"), (BackendPort("http", Protocol.TCP, 80),), node="n-7")
    async with serving(tmp_path) as agent:
        agent.mesh.replace(
            "manifests",
            [
                Service(WEB, "manifests"),
                BackendSlice(WEB, "x", "manifests", "cm-1", (backend,)),
                Node("cm-1", "n-7", "manifests", zone="z-9"),
                Cluster("cm-1", "manifests", 1, local=True),
            ],
        )
        done = {form: await meshctl(agent, "watch", what, "--once", "-o", form) for form in FORMATS}
    assert [run.status for run in done.values()] == [0, 0, 0, 0]
    as_json = [json.loads(line) for line in done["json"].out.splitlines()]
    assert as_json == list(yaml.safe_load_all(done["yaml"].out))
    assert [event["type"] for event in as_json] == ["EVENT_TYPE_PUT"]
    assert done["wide"].out != done["table"].out
    assert done["wide"].out.split()[:2] == done["table"].out.split()[:2]


async def test_a_watch_once_ends_when_all_has_been_shown(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.mesh.replace("manifests", [Service(WEB, "manifests")])
        for what, expected in (("services", 1), ("backends", 0), ("nodes", 0), ("clusters", 0)):
            done = await meshctl(agent, "watch", what, "--once")
            assert (done.status, len(done.out.splitlines())) == (0, expected)

"""The journal of one source: what survives which kind of crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.errors import JournalError
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    ClusterState,
    Frontend,
    Identity,
    Namespace,
    Node,
    NodeState,
    Protocol,
    Service,
    ServiceName,
    Workload,
    parse_address,
)
from meshd.state.journal import Journal, path_of
from meshd.state.mesh import Object

WEB = ServiceName("default", "web")


def service(name: str, port: int = 80, source: str = "api") -> Service:
    frontend = Frontend(parse_address("10.96.0.1"), port, Protocol.TCP, "http")
    return Service(ServiceName("default", name), source, (frontend,))


def journal(directory: Path, live: list[Object] | None = None) -> Journal:
    return Journal(directory, "api", lambda: live or [])


async def written(directory: Path, *puts: Object) -> Path:
    """A journal with ``puts``, one change each, closed again."""
    found = journal(directory)
    found.load()
    for value in puts:
        await found.write([value], [], durable=True)
    found.close()
    return found.path


async def test_every_kind_of_object_comes_back_as_it_was(tmp_path: Path) -> None:
    v6 = parse_address("fd00::7")
    objects: list[Object] = [
        service("web"),
        BackendSlice(
            WEB,
            "a",
            "api",
            "cm-1",
            (Backend(v6, (BackendPort("", Protocol.UDP, 53),), ready=False, weight=7),),
        ),
        Namespace("default", "api", global_services=True),
        Workload("default", "pod", "api", "/run/netns/x", (v6,), socket_lb=False),
        Identity("default", "pod", 70000, "api"),
        Node("cm-1", "n1", "api", (v6,), ("10.1.0.0/24",), "zone-a", takes_identities=True, region="west"),
        Node(
            "cm-1",
            "n2",
            "api",
            extra=(v6,),
            routing="auto",
            identities=(1, 2),
            state=NodeState.STALE,
            reason="x",
        ),
        Cluster("cm-1", "api", 1, local=True, state=ClusterState.SYNCED, since_s=1.5),
    ]
    await written(tmp_path, *objects)
    assert journal(tmp_path).load() == objects


async def test_deleted_objects_do_not_come_back(tmp_path: Path) -> None:
    keeper, goner = service("keeper"), service("goner")
    found = journal(tmp_path)
    found.load()
    await found.write([keeper, goner], [], durable=True)
    await found.write([], [(Service, goner.key)], durable=True)
    found.close()
    assert journal(tmp_path).load() == [keeper]


@pytest.mark.parametrize("kept_bytes", [1, 20, -1])
async def test_a_torn_last_line_is_cut_off_and_later_lines_are_whole(tmp_path: Path, kept_bytes: int) -> None:
    path = await written(tmp_path, service("first"))
    whole = path.read_bytes()
    await written(tmp_path, service("torn"))
    last = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + last[:kept_bytes])
    await written(tmp_path, service("after"))
    assert journal(tmp_path).load() == [service("first"), service("after")]


@pytest.mark.parametrize(
    "corrupt",
    [b"\0" * 40, b"{", b'["put","Service",{"name":1}]', b'["put","Planet",{}]', b'["eat","Service",{}]'],
)
async def test_a_line_that_cannot_be_read_costs_only_itself(tmp_path: Path, corrupt: bytes) -> None:
    path = await written(tmp_path, service("before"), service("hurt"), service("after"))
    lines = path.read_bytes().splitlines()
    lines[2] = corrupt
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert journal(tmp_path).load() == [service("before"), service("after")]


async def test_a_header_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    path = await written(tmp_path, service("web"))
    path.write_bytes(b"\0" * 10 + path.read_bytes()[10:])
    assert journal(tmp_path).load() == [service("web")]


async def test_an_object_of_another_source_is_passed_over(tmp_path: Path) -> None:
    await written(tmp_path, service("foreign", source="manifests"), service("web"))
    assert journal(tmp_path).load() == [service("web")]


async def test_a_journal_of_another_source_is_refused(tmp_path: Path) -> None:
    path = await written(tmp_path, service("web"))
    path.rename(path_of(tmp_path, "cluster:cm-2"))
    with pytest.raises(JournalError, match="of source 'api'"):
        Journal(tmp_path, "cluster:cm-2", list).load()


async def test_history_is_dropped_when_it_outgrows_what_lives(tmp_path: Path) -> None:
    live: list[Object] = [service("web", port=1)]
    found = journal(tmp_path, live)
    found.load()
    largest = 0
    for port in range(1, 3000):
        live[0] = service("web", port)
        await found.write(live, [], durable=False)
        largest = max(largest, found.path.stat().st_size)
    found.close()
    assert largest < 70_000
    assert journal(tmp_path).load() == [service("web", port=2999)]


async def test_a_compaction_that_died_half_way_leaves_the_old_file_in_use(tmp_path: Path) -> None:
    path = await written(tmp_path, service("web"))
    path.with_suffix(".new").write_bytes(b'{"format":1,"source":"api"}\n["put","Serv')
    found = journal(tmp_path, [service("web")])
    assert found.load() == [service("web")]
    await found.compact()
    found.close()
    assert not path.with_suffix(".new").exists()
    assert journal(tmp_path).load() == [service("web")]


def test_a_full_disk_refuses_the_change_and_keeps_what_was_there(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the disk: write() fails in the middle of a line with EFBIG."""
    script = f"""
import asyncio, resource, signal
from pathlib import Path
from tests.unit.state.test_journal import journal, service
from meshd.errors import JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

async def main():
    found = journal(Path({str(tmp_path)!r}), [service("first")])
    found.load()
    await found.write([service("first")], [], durable=True)
    size = found.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, resource.RLIM_INFINITY))
    try:
        await found.write([service("second")], [], durable=True)
    except JournalError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await found.write([service("third")], [], durable=True)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "File too large; nothing was changed" in done.stdout
    assert journal(tmp_path).load() == [service("first"), service("third")]


def test_what_was_answered_as_durable_survives_kill_9(tmp_path: Path) -> None:
    """A writer that says on stdout what is on disk is killed in full flight; at least that much must be found."""
    script = f"""
import asyncio
from pathlib import Path
from tests.unit.state.test_journal import journal, service

async def main():
    live = []
    found = journal(Path({str(tmp_path)!r}), live)
    found.load()
    for number in range(1, 65536):
        value = service(f"s{{number % 200}}", number)
        await found.write([value], [], durable=True)
        live[:] = [one for one in live if one.name != value.name] + [value]
        print(number, flush=True)

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 700:
                writer.send_signal(signal.SIGKILL)
                break
        answered = [int(line) for line in writer.stdout] or [700]
    ports = {value.frontends[0].port for value in journal(tmp_path).load() if isinstance(value, Service)}
    assert max(ports) >= answered[-1]
    assert ports == set(range(max(ports) - 199, max(ports) + 1))


def test_file_names_hold_any_source_name_and_stay_in_the_directory(tmp_path: Path) -> None:
    path = path_of(tmp_path, "cluster:../../etc")
    assert path.parent == tmp_path
    assert os.sep not in path.name

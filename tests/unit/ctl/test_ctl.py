"""meshctl as a user runs it: a process of its own against a server with a real mesh."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from meshd.config import Api, Role, Tls
from meshd.ctl.arguments import FORMATS
from meshd.errors import MapFull
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Cluster,
    Node,
    Protocol,
    Service,
    ServiceName,
    parse_address,
)
from meshd.state import PlanKey
from tests.fakes.agent import FakeAgent, serving
from tests.fakes.certificates import Authority

WEB = ServiceName("default", "web")


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended."""

    status: int
    out: str
    err: str


async def meshctl(
    agent: FakeAgent | None, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> Done:
    """Run meshctl to its end."""
    process = await start(agent, *arguments, env=env)
    out, err = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, out.decode(), err.decode())


async def start(
    agent: FakeAgent | None,
    *arguments: str,
    env: dict[str, str] | None = None,
    stdout: int = asyncio.subprocess.PIPE,
) -> asyncio.subprocess.Process:
    """Start meshctl for ``agent``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHD_")}
    if agent is not None:
        environment["MESHD_SOCKET"] = str(agent.config.socket)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshd.ctl.main",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
        env=environment | (env or {}),
    )


FLAGS = ("service", "apply", "web", "--frontend", "http=10.96.0.1:80")


async def test_a_service_and_its_backends_are_applied_listed_and_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        applied = await meshctl(
            agent, *FLAGS, "--frontend", "[fd00::1]:53/UDP", "--global", "--affinity", "local"
        )
        assert applied == Done(0, "service default/web applied at revision 1\n", "")
        added = await meshctl(
            agent, "backend", "apply", "web", "--address", "10.1.0.5", "--port", "http=8080", "--weight", "7"
        )
        assert added == Done(0, "backend 10.1.0.5 of default/web applied at revision 2\n", "")
        listed = await meshctl(agent, "service", "list")
        assert [line.split() for line in listed.out.splitlines()] == [
            ["NAMESPACE", "NAME", "FRONTENDS", "BACKENDS", "SOURCE", "STATE"],
            ["default", "web", "10.96.0.1:80/TCP,[fd00::1]:53/UDP", "1/1", "api", "settled"],
        ]
        wide = await meshctl(agent, "backend", "list", "web", "-o", "wide")
        assert wide.out.splitlines()[1].split() == (
            [
                "default",
                "web",
                "10.1.0.5",
                "http=8080/TCP",
                "ready",
                "cm-1",
                "api",
                "-",
                "-",
                "7",
                "10.1.0.5",
                "2",
            ]
        )
        gone = await meshctl(agent, "backend", "delete", "web", "10.1.0.5", "10.1.0.6")
        assert gone.out.splitlines() == [
            "backend 10.1.0.5 of default/web deleted at revision 3",
            "backend 10.1.0.6 of default/web was not there",
        ]
        assert (await meshctl(agent, "service", "delete", "default/web")).status == 0
        assert len(agent.mesh.services) == 0


async def test_what_get_prints_can_be_applied_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        await meshctl(agent, *FLAGS, "--global", "--session-affinity", "30", "--close-tcp")
        before = list(agent.mesh.services.values())
        for form in ("yaml", "json"):
            printed = (await meshctl(agent, "service", "get", "web", "-o", form)).out
            await meshctl(agent, "service", "delete", "web")
            assert (await meshctl(agent, "service", "apply", "-f", "-", stdin=printed)).status == 0
            assert list(agent.mesh.services.values()) == before


async def test_what_list_prints_can_be_applied_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        await meshctl(agent, *FLAGS)
        await meshctl(
            agent, "backend", "apply", "web", "--address", "10.1.0.5", "--port", "8080", "--terminating"
        )
        before = list(agent.mesh.slices.values())
        printed = (await meshctl(agent, "backend", "list", "-o", "yaml")).out
        await meshctl(agent, "backend", "delete", "web", "10.1.0.5")
        assert (await meshctl(agent, "backend", "apply", "-f", "-", stdin=printed)).status == 0
        assert list(agent.mesh.slices.values()) == before


async def test_a_document_that_is_wrong_is_refused_alone(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text("""\
namespace: default
name: web
frontends: [{address: 10.96.0.1, port: 80, protocol: TCP}]
---
namespace: default
name: typo
frontendz: []
---
namespace: default
name: port
frontends: [{address: 10.96.0.2, port: 0, protocol: tcp}]
---
namespace: default
name: other
frontends: [{address: 10.96.0.3, port: 53, protocol: PROTOCOL_UDP}]
""")
    async with serving(tmp_path) as agent:
        done = await meshctl(agent, "service", "apply", "-f", str(file))
        assert done.status == 1
        assert done.out.splitlines() == [
            "service default/web applied at revision 1",
            "service default/other applied at revision 2",
        ]
        typo, port = done.err.splitlines()
        assert f'{file}, document 2: Message type "meshd.v1.Service" has no field named "frontendz"' in typo
        assert port == "meshctl: service default/port: service.frontends[0].port: 0 is not within 1..65535"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required"),
        (("nonsense",), "invalid choice"),
        (("service", "list", "-o", "xml"), "invalid choice"),
        (("service", "list", "--timeout", "0"), "not a positive number"),
        (("backend", "apply", "web", "--weight", "-1"), "expected one argument|not a number"),
    ],
)
async def test_wrong_usage_is_status_2(arguments: tuple[str, ...], said: str) -> None:
    done = await meshctl(None, *arguments)
    assert (done.status, done.out) == (2, "")
    assert any(part in done.err for part in said.split("|"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("service", "apply"), "meshctl: service apply needs either -f FILE or a name with --frontend\n"),
        (
            ("service", "apply", "web", "--frontend", "fd00::1:80"),
            "meshctl: 'fd00::1:80' is not [NAME=]ADDRESS:PORT[/PROTOCOL]; IPv6 addresses stand in brackets\n",
        ),
        (
            ("--server", "localhost:1", "status"),
            "meshctl: --server needs --tls-ca, --tls-cert, --tls-key: the agent is reached over mTLS only\n",
        ),
    ],
)
async def test_options_that_do_not_fit_together_are_wrong_usage_too(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    async with serving(tmp_path) as agent:
        assert await meshctl(agent, *arguments) == Done(2, "", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("service", "get", "nope"), "meshctl: service default/nope does not exist\n"),
        (("map", "dump", "nope"), "meshctl: map nope does not exist\n"),
        (("service", "apply", "-f", "/nope"), "meshctl: /nope: No such file or directory\n"),
        (
            ("service", "apply", "Web", "--frontend", "10.0.0.1:80"),
            "meshctl: service default/Web: service.name: 'Web' is not an RFC 1123 label (at most 63 of a-z, 0-9 and "
            "'-', a letter or digit at both ends)\n",
        ),
    ],
)
async def test_a_failure_is_one_line_and_status_1(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    async with serving(tmp_path) as agent:
        assert await meshctl(agent, *arguments) == Done(1, "", said)


async def test_rows_that_the_kernel_refused_are_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.refused[PlanKey("service", "default/web")] = MapFull("slots", 9, 3)
        done = await meshctl(agent, *FLAGS)
        assert done.status == 1
        assert "map slots: No space left on device (9 entries needed, 3 free" in done.err


async def test_a_slow_kernel_is_told_from_an_agent_that_does_not_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        agent.dataplane.open.clear()
        done = await meshctl(agent, *FLAGS, "--timeout", "1")
        assert done.status == 1
        assert "service default/web is accepted at revision 1 and on disk" in done.err
        assert (await meshctl(agent, *FLAGS, "--no-wait")).status == 0


async def test_a_socket_where_nobody_listens_is_named(tmp_path: Path) -> None:
    done = await meshctl(None, "status", "--socket", str(tmp_path / "none.sock"))
    assert done.status == 1
    assert f"no agent at {tmp_path}/none.sock" in done.err


async def test_a_socket_that_a_dead_agent_left_is_told_in_a_few_words(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    done = await meshctl(None, "service", "list", "--socket", str(path))
    assert done == Done(1, "", f"meshctl: cannot reach the agent at {path}: Connection refused\n")


async def test_options_of_the_connection_stand_before_or_behind_the_command(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        place = ("--socket", str(agent.config.socket))
        assert (await meshctl(None, *place, "service", "list")).status == 0
        assert (await meshctl(None, "service", "list", *place)).status == 0


async def test_over_tcp_the_certificate_decides(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue("agent", "localhost").write(tmp_path, "server")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.pem)
    api = Api("127.0.0.1:0", Tls(certificate=certificate, key=key, ca=ca), Role(read=("reader",)))
    mine, my_key = authority.issue("reader").write(tmp_path, "client")
    async with serving(tmp_path, api) as agent:
        server = ("--server", f"127.0.0.1:{agent.server.port}")
        tls = ("--tls-ca", str(ca), "--tls-cert", str(mine), "--tls-key", str(my_key))
        assert (await meshctl(None, *server, *tls, "service", "list")).status == 0
        refused = await meshctl(None, *server, *tls, *FLAGS)
        assert refused.status == 1
        assert (
            "reader may not call /meshd.v1.ServiceService/ApplyService: it needs the role operate"
            in refused.err
        )


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


async def test_a_sysdump_holds_what_a_bug_report_needs_and_no_secrets(tmp_path: Path) -> None:
    log = tmp_path / "meshd.log"
    log.write_text("event=started\npassword=hunter2 user=root\n-----BEGIN PRIVATE KEY-----\nMIIE\n")
    file = tmp_path / "dump.tar.gz"
    async with serving(tmp_path) as agent:
        assert await meshctl(agent, *FLAGS) == Done(0, "service default/web applied at revision 1\n", "")
        done = await meshctl(agent, "sysdump", "-f", str(file), "--log", str(log))
    assert done.status == 0, done.err
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        files = {name.split("/", 1)[1]: text_of(archive, name) for name in archive.getnames()}
    assert set(files) == {
        "meshctl.txt",
        "kernel.txt",
        "log.txt",
        "status.json",
        "config.yaml",
        "services.json",
        "backends.json",
        "nodes.json",
        "clusters.json",
        "maps.json",
        "maps/slots.jsonl",
        "missing.txt",
    }
    assert json.loads(files["services.json"])[0]["name"] == "web"
    assert files["log.txt"] == "event=started\npassword=(left out) user=root\n(left out)"
    assert files["missing.txt"] == "maps/counters.jsonl: map counters does not exist\n"


def text_of(archive: tarfile.TarFile, name: str) -> str:
    part = archive.extractfile(name)
    assert part is not None
    return part.read().decode()


async def test_a_sysdump_without_an_agent_holds_the_rest_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "dump.tar.gz"
    done = await meshctl(None, "sysdump", "-f", str(file), "--socket", str(tmp_path / "none"))
    assert done.status == 1
    with tarfile.open(file) as archive:
        assert {name.split("/", 1)[1] for name in archive.getnames()} == {
            "meshctl.txt",
            "kernel.txt",
            "missing.txt",
        }


async def test_version_says_both(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        done = await meshctl(agent, "version")
        assert done == Done(0, "meshctl 0.1.0\nmeshd 0.1.0 abc123 kernel 6.18.5 python 3.11.2\n", "")
        found = json.loads((await meshctl(agent, "version", "-o", "json")).out)
        assert found["meshd"]["kernel"] == "6.18.5"


async def test_version_without_an_agent_says_ours_and_fails(tmp_path: Path) -> None:
    done = await meshctl(None, "version", "--socket", str(tmp_path / "none"))
    assert (done.status, done.out) == (1, "meshctl 0.1.0\n")
    assert (await meshctl(None, "version", "--client")).status == 0


async def test_grpc_is_imported_only_where_an_agent_is_asked() -> None:
    code = (
        "import sys; from meshd.ctl.main import main; main(['version', '--client']); "
        "print([name for name in ('grpc', 'google.protobuf', 'yaml', 'asyncio') if name in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().splitlines() == ["meshctl 0.1.0", "[]"]


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_are_for_terminals_only(
    tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    async with serving(tmp_path) as agent:
        await meshctl(agent, *FLAGS)
        assert "\x1b[" not in (await meshctl(agent, "service", "list")).out
        ours, theirs = pty.openpty()
        try:
            process = await start(
                agent, "service", "list", stdout=theirs, env={"TERM": "xterm", "NO_COLOR": ""} | environment
            )
            await process.wait()
            shown = os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)
        assert ("\x1b[32msettled\x1b[0m" in shown) is coloured


async def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        process = await start(agent, "map", "dump", "slots")
        assert process.stdout is not None
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined] # as `| head -1` does; asyncio has no public way
        assert process.stderr is not None
        assert (await process.stderr.read(), await process.wait()) == (b"", 0)


@pytest.mark.parametrize(
    "words", ["meshctl", "meshctl service", "meshctl service list", "meshctl map dump x"]
)
async def test_bash_completes_what_the_parser_knows(words: str) -> None:
    expected = {
        "meshctl": "service",
        "meshctl service": "apply",
        "meshctl service list": "--namespace",
        "meshctl map dump x": "--output",
    }[words]
    script = (await meshctl(None, "completion", "bash")).out
    ask = f"""
COMP_WORDS=({words} "") COMP_CWORD={len(words.split())}
_meshctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script + ask, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert err == b""
    assert expected in out.decode().split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
async def test_other_shells_have_completions_too(shell: str) -> None:
    done = await meshctl(None, "completion", shell)
    assert done.status == 0
    assert "sysdump" in done.out

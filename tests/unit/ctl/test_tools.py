"""Sysdump, version, completion, and how meshctl behaves on terminals and in pipes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import tarfile
from pathlib import Path

import pytest

from tests.fakes.agent import serving
from tests.unit.ctl.running import FLAGS, Done, meshctl, start


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
        "short-circuit.json",
        "short-circuit-list.json",
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

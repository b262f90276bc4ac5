"""What meshctl applies and deletes, against a server with a real mesh; and what it says of what was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshd.errors import MapFull
from meshd.model import OnStale
from meshd.state import PlanKey
from tests.fakes.agent import serving
from tests.unit.ctl.running import FLAGS, Done, meshctl


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
        await meshctl(
            agent,
            *FLAGS,
            *(
                "--global",
                "--session-affinity",
                "30",
                "--close-tcp",
                "--on-stale",
                "drop",
                "--close-on-failover",
            ),
        )
        before = list(agent.mesh.services.values())
        assert (before[0].on_stale, before[0].close_on_failover) == (OnStale.DROP, True)
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

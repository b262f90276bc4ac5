"""How meshctl reaches an agent, and what it says where it does not."""

from __future__ import annotations

import socket
from pathlib import Path

from meshd.config import Api, Role, Tls
from tests.fakes.agent import serving
from tests.fakes.certificates import Authority
from tests.unit.ctl.running import FLAGS, Done, meshctl


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

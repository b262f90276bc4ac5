"""Where the control API can be reached, by whom, and what each of them may."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from meshd.api.v1 import map_pb2, service_pb2, status_pb2
from meshd.api.v1.map_pb2_grpc import MapServiceStub
from meshd.api.v1.service_pb2 import PROTOCOL_TCP
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.config import Api, Role, Tls
from meshd.errors import ConfigError
from meshd.servers.control.callers import NEEDS, role_of
from meshd.servers.control.callers import Role as Level
from tests.fakes.agent import FakeAgent, serving
from tests.fakes.certificates import Authority, Pair

TIMEOUT_S = 20.0

ROLES = Role(read=("reader", "*.readers.example"), operate=("operator",), admin=("boss",))


def api(directory: Path, authority: Authority) -> Api:
    certificate, key = authority.issue("agent", "localhost").write(directory, "server")
    ca = directory / "ca.crt"
    ca.write_bytes(authority.pem)
    return Api(listen="127.0.0.1:0", tls=Tls(certificate=certificate, key=key, ca=ca), roles=ROLES)


@asynccontextmanager
async def dialled(
    agent: FakeAgent, authority: Authority, pair: Pair | None
) -> AsyncIterator[grpc.aio.Channel]:
    """A new connection over TCP with the certificate ``pair``."""
    credentials = grpc.ssl_channel_credentials(
        authority.pem, pair.key if pair else None, pair.certificate if pair else None
    )
    # Each its own connection: gRPC would share one between channels with equal arguments.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{agent.server.port}", credentials, options=options
    ) as channel:
        yield channel


async def code_of(channel: grpc.aio.Channel, method: str) -> grpc.StatusCode:
    """How a read, an operate and an admin method end."""
    web = service_pb2.Service(
        namespace="default",
        name="web",
        frontends=[service_pb2.Frontend(address="10.96.0.1", port=80, protocol=PROTOCOL_TCP)],
    )
    try:
        match method:
            case "read":
                await StatusServiceStub(channel).GetStatus(status_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
            case "operate":
                request = service_pb2.ApplyServiceRequest(service=web)
                await ServiceServiceStub(channel).ApplyService(request, timeout=TIMEOUT_S)
            case "dump":
                async for _ in MapServiceStub(channel).DumpMap(
                    map_pb2.DumpMapRequest(name="slots"), timeout=TIMEOUT_S
                ):
                    pass
            case "admin":
                await StatusServiceStub(channel).GetConfig(status_pb2.GetConfigRequest(), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("names", "codes"),
    [
        (("nobody",), (DENIED, DENIED, DENIED, DENIED)),
        (("reader",), (OK, DENIED, DENIED, DENIED)),
        (("x", "one.readers.example"), (OK, DENIED, DENIED, DENIED)),
        (("operator",), (OK, OK, OK, DENIED)),
        (("boss",), (OK, OK, OK, OK)),
    ],
)
async def test_a_certificate_may_what_its_role_may(
    tmp_path: Path, names: tuple[str, ...], codes: tuple[grpc.StatusCode, ...]
) -> None:
    authority = Authority()
    async with (
        serving(tmp_path, api(tmp_path, authority)) as agent,
        dialled(agent, authority, authority.issue(*names)) as channel,
    ):
        assert tuple([await code_of(channel, one) for one in ("read", "operate", "dump", "admin")]) == codes


async def test_a_change_over_tcp_is_logged_with_the_name_of_the_certificate(tmp_path: Path) -> None:
    authority = Authority()
    with capture_logs() as logs:
        async with (
            serving(tmp_path, api(tmp_path, authority)) as agent,
            dialled(agent, authority, authority.issue("operator")) as channel,
        ):
            assert await code_of(channel, "operate") is OK
            assert await code_of(channel, "admin") is DENIED
    made = [(line["event"], line["caller"]) for line in logs if "caller" in line]
    assert made == [("service applied", "operator"), ("call refused", "operator")]


@pytest.mark.parametrize("certificate", ["none", "of another authority"])
async def test_a_client_without_a_certificate_of_ours_is_not_let_in(tmp_path: Path, certificate: str) -> None:
    authority = Authority()
    pair = None if certificate == "none" else Authority().issue("boss")
    async with (
        serving(tmp_path, api(tmp_path, authority)) as agent,
        dialled(agent, authority, pair) as channel,
    ):
        assert await code_of(channel, "read") is grpc.StatusCode.UNAVAILABLE


async def test_certificates_are_read_again_without_a_restart(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    options = api(tmp_path, old)
    async with serving(tmp_path, options) as agent, dialled(agent, old, old.issue("reader")) as before:
        assert await code_of(before, "read") is OK
        api(tmp_path, new)
        async with dialled(agent, new, new.issue("reader")) as after:
            assert await code_of(after, "read") is OK
        async with dialled(agent, old, old.issue("reader")) as late:
            assert await code_of(late, "read") is grpc.StatusCode.UNAVAILABLE
        # A connection that stands is not broken by it.
        assert await code_of(before, "read") is OK


async def test_half_of_a_new_pair_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    authority = Authority()
    options = api(tmp_path, authority)
    assert options.tls is not None
    async with serving(tmp_path, options) as agent:
        options.tls.certificate.write_bytes(authority.issue("agent", "localhost").certificate)
        async with dialled(agent, authority, authority.issue("reader")) as channel:
            assert await code_of(channel, "read") is OK


async def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = api(tmp_path, Authority())
    assert options.tls is not None
    options.tls.key.unlink()
    with pytest.raises(ConfigError, match=r"api\.tls: .*server\.key"):
        async with serving(tmp_path, options):
            pass


async def test_the_socket_is_for_the_agents_user_and_group_only(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        assert stat.S_IMODE(agent.config.socket.stat().st_mode) == 0o660


async def test_a_socket_that_a_dead_agent_left_is_taken_over_and_none_is_left_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run" / "meshd.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(tmp_path) as agent:
        assert await code_of(agent.channel, "admin") is OK
    assert not path.exists()


async def test_a_second_agent_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        with pytest.raises(ConfigError, match="another agent answers there"):
            async with serving(tmp_path):
                pass
        assert await code_of(agent.channel, "admin") is OK


async def test_an_agent_whose_lock_is_gone_is_still_noticed(tmp_path: Path) -> None:
    async with serving(tmp_path) as agent:
        (tmp_path / "run" / "meshd.sock.lock").unlink()
        with pytest.raises(ConfigError, match="another agent answers there"):
            async with serving(tmp_path):
                pass
        assert await code_of(agent.channel, "admin") is OK


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = api(tmp_path, Authority())
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be bound"):
            async with serving(tmp_path, Api(f"127.0.0.1:{port}", options.tls, options.roles)):
                pass


def test_every_method_of_our_api_has_a_role() -> None:
    from meshd.api.v1 import backend_pb2, cluster_pb2, failover_pb2, metrics_pb2, node_pb2, short_circuit_pb2

    files = (
        status_pb2,
        service_pb2,
        backend_pb2,
        node_pb2,
        cluster_pb2,
        map_pb2,
        metrics_pb2,
        short_circuit_pb2,
        failover_pb2,
    )
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {method for method in NEEDS if method.startswith("/meshd.")}


@pytest.mark.parametrize(
    ("common", "dns", "role"),
    [
        (["boss"], [], Level.ADMIN),
        (["boss", "reader"], [], Level.ADMIN),
        (["a.readers.example"], [], Level.NONE),
        ([], ["a.readers.example"], Level.READ),
        ([], ["readers.example"], Level.NONE),
        ([], ["evilreaders.example"], Level.NONE),
        ([], [], Level.NONE),
    ],
)
def test_a_pattern_fits_the_end_of_a_dns_name_only(common: list[str], dns: list[str], role: Level) -> None:
    assert role_of(common, dns, ROLES) == role

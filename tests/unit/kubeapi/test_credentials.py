"""Who asks, and whom he takes for the API server: over real TLS, with files that change."""

from __future__ import annotations

import base64
import json
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from meshd.errors import ApiServerError, ApiServerUnreachable, ConfigError
from meshd.kubeapi import kubeconfig
from meshd.kubeapi.access import in_cluster
from meshd.kubeapi.client import OBJECT, Client
from meshd.kubeapi.resources import SERVICES
from tests.fakes.api_server import FakeApiServer, Handler, serving, status
from tests.fakes.certificates import Authority

AUTHORITY = Authority()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeApiServer]:
    """It takes whoever has a certificate of the authority, and looks at tokens."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=AUTHORITY.pem.decode())
    context.load_cert_chain(*AUTHORITY.issue("server", "kubernetes").write(tmp_path, "server"))
    context.verify_mode = ssl.CERT_OPTIONAL
    async with serving(FakeApiServer(), context) as server:
        yield server


def config(server: FakeApiServer, tmp_path: Path, user: object, **cluster: object) -> Path:
    path = tmp_path / "kubeconfig"
    data = base64.b64encode(AUTHORITY.pem).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [
            {
                "name": "k",
                "cluster": {"server": server.url, "certificate-authority-data": data, **cluster},
            }
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def common_name(request: web.Request) -> str:
    shown = request.get_extra_info("peercert") or {}
    return "".join(value for part in shown.get("subject", ()) for name, value in part if name == "commonName")


def takes(token: str) -> Handler:
    def intervene(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {token}":
            return status(401, "Unauthorized", "Unauthorized")
        return None

    return intervene


async def asks(path: Path) -> None:
    async with Client(kubeconfig.load(path)) as client:
        await client.list(SERVICES, into=OBJECT)


async def test_a_certificate_from_data_or_file_is_shown(server: FakeApiServer, tmp_path: Path) -> None:
    pair = AUTHORITY.issue("alice")
    in_data = {
        "client-certificate-data": base64.b64encode(pair.certificate).decode(),
        "client-key-data": base64.b64encode(pair.key).decode(),
    }
    pair.write(tmp_path, "alice")
    in_files = {"client-certificate": "alice.crt", "client-key": "alice.key"}
    seen: list[str] = []
    server.intervene = lambda request: seen.append(common_name(request))
    for user in (in_data, in_files):
        await asks(config(server, tmp_path, user))
    assert seen == ["alice", "alice"]


async def test_a_certificate_that_is_renewed_is_shown_from_then_on(
    server: FakeApiServer, tmp_path: Path
) -> None:
    AUTHORITY.issue("before").write(tmp_path, "me")
    path = config(server, tmp_path, {"client-certificate": "me.crt", "client-key": "me.key"})
    seen: list[str] = []
    server.intervene = lambda request: seen.append(common_name(request))
    async with Client(kubeconfig.load(path)) as client:
        await client.list(SERVICES, into=OBJECT)
        AUTHORITY.issue("after").write(tmp_path, "new")
        for suffix in ("crt", "key"):
            (tmp_path / f"new.{suffix}").rename(tmp_path / f"me.{suffix}")
        await client.list(SERVICES, into=OBJECT)
    assert seen == ["before", "after"]


async def test_a_server_of_another_authority_is_not_spoken_to(server: FakeApiServer, tmp_path: Path) -> None:
    other = base64.b64encode(Authority("other").pem).decode()
    path = config(server, tmp_path, {"token": "t"}, **{"certificate-authority-data": other})
    with pytest.raises(ApiServerUnreachable, match="its certificate is not trusted"):
        await asks(path)
    assert server.asked == []


async def test_a_server_is_known_by_the_name_it_was_given(server: FakeApiServer, tmp_path: Path) -> None:
    await asks(config(server, tmp_path, {"token": "t"}, **{"tls-server-name": "kubernetes"}))
    with pytest.raises(ApiServerUnreachable, match="not trusted"):
        await asks(config(server, tmp_path, {"token": "t"}, **{"tls-server-name": "elsewhere"}))


async def test_a_check_that_is_switched_off_is_off(server: FakeApiServer, tmp_path: Path) -> None:
    off = {"insecure-skip-tls-verify": True, "certificate-authority-data": ""}
    await asks(config(server, tmp_path, {"token": "t"}, **off))


async def test_a_rotated_token_is_read_again(server: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.pem)
    (tmp_path / "namespace").write_text("kube-system")
    (tmp_path / "token").write_text("first\n")
    access = in_cluster(tmp_path, {}).at([server.url])
    assert access.namespace == "kube-system"
    async with Client(access) as client:
        for token in ("first", "second"):
            server.intervene = takes(token)
            # As kubelet does: a new directory, and a link that is turned round to it.
            (tmp_path / "new").write_text(token)
            (tmp_path / "new").rename(tmp_path / "token")
            await client.list(SERVICES, into=OBJECT)
    assert len(server.asked) == 2


async def test_a_token_that_is_refused_is_read_again_once(server: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong")
    server.intervene = takes("right")
    with pytest.raises(ApiServerError, match="list services: 401 Unauthorized"):
        await asks(config(server, tmp_path, {"tokenFile": "token"}))
    assert len(server.asked) == 2


async def test_impersonation_travels_with_the_request(server: FakeApiServer, tmp_path: Path) -> None:
    await asks(config(server, tmp_path, {"token": "t", "as": "jane", "as-groups": ["ops"]}))
    headers = server.asked[0].headers
    assert (headers["Impersonate-User"], headers["Impersonate-Group"]) == ("jane", "ops")


def plugin(tmp_path: Path, script: str, **facts: object) -> dict[str, object]:
    path = tmp_path / "login"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": "./login", "interactiveMode": "Never", **facts}}


def credential(token: str = "", **said: str) -> str:
    status = {**({"token": token} if token else {}), **said}
    return json.dumps(
        {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    )


async def test_a_plugin_is_asked_once_while_its_token_lasts(server: FakeApiServer, tmp_path: Path) -> None:
    told = credential("made", expirationTimestamp="2999-01-01T00:00:00Z")
    user = plugin(
        tmp_path, f"echo \"$1 $EXTRA\" >> {tmp_path}/calls\necho '{told}'", args=["--cluster"],
        env=[{"name": "EXTRA", "value": "x"}],
    )  # fmt: skip
    server.intervene = takes("made")
    async with Client(kubeconfig.load(config(server, tmp_path, user))) as client:
        await client.list(SERVICES, into=OBJECT)
        await client.list(SERVICES, into=OBJECT)
    assert (tmp_path / "calls").read_text() == "--cluster x\n"


async def test_a_plugin_is_asked_again_when_its_token_ends_or_is_refused(
    server: FakeApiServer, tmp_path: Path
) -> None:
    ended = credential("old", expirationTimestamp="2020-01-01T00:00:00Z")
    user = plugin(tmp_path, f"echo call >> {tmp_path}/calls\necho '{ended}'")
    async with Client(kubeconfig.load(config(server, tmp_path, user))) as client:
        await client.list(SERVICES, into=OBJECT)
        await client.list(SERVICES, into=OBJECT)
        assert (tmp_path / "calls").read_text().count("call") == 2
        server.intervene = takes("another")
        with pytest.raises(ApiServerError, match="401"):
            await client.list(SERVICES, into=OBJECT)
    assert (tmp_path / "calls").read_text().count("call") == 4


async def test_a_plugin_may_give_a_certificate(server: FakeApiServer, tmp_path: Path) -> None:
    pair = AUTHORITY.issue("robot")
    told = credential(clientCertificateData=pair.certificate.decode(), clientKeyData=pair.key.decode())
    (tmp_path / "told").write_text(told)
    seen: list[str] = []
    server.intervene = lambda request: seen.append(common_name(request))
    await asks(config(server, tmp_path, plugin(tmp_path, f"cat {tmp_path}/told")))
    assert seen == ["robot"]


async def test_a_plugin_is_told_of_the_cluster_if_it_wants(server: FakeApiServer, tmp_path: Path) -> None:
    script = f"printenv KUBERNETES_EXEC_INFO > {tmp_path}/info\necho '{credential('t')}'"
    await asks(config(server, tmp_path, plugin(tmp_path, script, provideClusterInfo=True)))
    info = json.loads((tmp_path / "info").read_text())
    assert info["spec"]["cluster"]["server"] == server.url
    assert base64.b64decode(info["spec"]["cluster"]["certificate-authority-data"]) == AUTHORITY.pem


PLUGINS = [
    ("echo no login >&2; exit 3", {}, "ended with status 3: no login"),
    ("echo secret", {}, "wrote no ExecCredential"),
    (f"echo '{credential()}'", {}, "gave neither a token nor a certificate"),
    ("true", {"apiVersion": "v9"}, "apiVersion v9 is none of"),
    ("true", {"interactiveMode": "Always"}, "must talk to somebody"),
    (
        "true",
        {"command": "./absent", "installHint": "get it there"},
        "No such file or directory. get it there",
    ),
]


@pytest.mark.parametrize(("script", "facts", "reason"), PLUGINS)
async def test_a_plugin_that_gives_nothing_is_named(
    server: FakeApiServer, tmp_path: Path, script: str, facts: dict[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        await asks(config(server, tmp_path, plugin(tmp_path, script, **facts)))
    assert "secret" not in str(caught.value)


USERS = [
    ({"username": "a", "password": "b"}, "has a password"),
    ({"auth-provider": {"name": "gcp"}}, "has an auth-provider"),
    ({"client-certificate": "x"}, "only one of client-certificate and client-key"),
    ({"client-certificate-data": "%", "client-key-data": "%"}, "is not base64"),
    ({"as": "x", "as-groups": ["a", "b"]}, "several groups"),
]


@pytest.mark.parametrize(("user", "reason"), USERS)
async def test_a_user_that_cannot_be_is_refused_by_name(
    server: FakeApiServer, tmp_path: Path, user: object, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        kubeconfig.load(config(server, tmp_path, user))


async def test_of_several_files_the_first_that_names_something_is_right(
    server: FakeApiServer, tmp_path: Path
) -> None:
    first = config(server, tmp_path, {"token": "t"}).rename(tmp_path / "first")
    second = config(FakeApiServer("https://10.0.0.9:6443"), tmp_path, {"token": "t"})
    assert kubeconfig.load(first, second).endpoints == (server.url,)
    assert kubeconfig.load(tmp_path / "absent", second).endpoints == ("https://10.0.0.9:6443",)
    with pytest.raises(ConfigError, match="there is no context 'x'; it has c"):
        kubeconfig.load(second, context="x")


def test_the_files_are_those_of_kubectl(tmp_path: Path) -> None:
    several = os.pathsep.join(("/a", "/b"))
    assert kubeconfig.default_paths({"KUBECONFIG": several}) == [Path("/a"), Path("/b")]
    assert kubeconfig.default_paths({"HOME": "/home/x"}) == [Path("/home/x/.kube/config")]
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        kubeconfig.load(tmp_path / "absent")


def test_outside_of_a_pod_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is no pod with a service account; name a kubeconfig"):
        in_cluster(tmp_path)


def test_in_a_pod_the_service_address_is_the_endpoint(tmp_path: Path) -> None:
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    found = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert found.endpoints == ("https://[fd00::1]:443",)
    assert found.at(["10.0.0.1"], "kubernetes").endpoints == ("https://10.0.0.1:6443",)

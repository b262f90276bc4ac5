"""Requests: what is asked of which endpoint, and what an answer means."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from meshd.errors import ApiServerError, ApiServerUnreachable, ConfigError
from meshd.kubeapi import resources
from meshd.kubeapi.access import Access, endpoint_url
from meshd.kubeapi.client import APPLY, OBJECT, Client
from meshd.kubeapi.credentials import TokenFile
from tests.fakes.api_server import FakeApiServer, Object, serving, status


class Metadata(msgspec.Struct):
    name: str


class Named(msgspec.Struct):
    metadata: Metadata
    spec: dict[str, int] = {}


def service(name: str, **spec: object) -> Object:
    return {"metadata": {"namespace": "default", "name": name}, "spec": spec}


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with serving(FakeApiServer()) as server:
        yield server


@pytest.fixture
async def client(server: FakeApiServer) -> AsyncIterator[Client]:
    async with Client(Access((server.url,))) as client:
        yield client


def nobody() -> str:
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


PATHS = [
    (resources.SERVICES, ("default", "web"), "/api/v1/namespaces/default/services/web"),
    (resources.SERVICES, (), "/api/v1/services"),
    (resources.NODES, ("", "n1", "status"), "/api/v1/nodes/n1/status"),
    (resources.ENDPOINT_SLICES, ("a",), "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices"),
]


@pytest.mark.parametrize(("resource", "target", "path"), PATHS)
def test_a_resource_has_the_path(resource: resources.Resource, target: tuple[str, ...], path: str) -> None:
    assert resource.path(*target) == path


def test_an_object_with_a_namespace_is_not_looked_for_without_one() -> None:
    with pytest.raises(ValueError, match="a namespace is needed"):
        resources.SERVICES.path(name="web")


ENDPOINTS = [
    ("10.0.0.1:6443", "https://10.0.0.1:6443"),
    ("10.0.0.1", "https://10.0.0.1:6443"),
    ("[fd00::1]:443", "https://[fd00::1]:443"),
    ("https://api.example/prefix/", "https://api.example/prefix"),
]


@pytest.mark.parametrize(("text", "url"), ENDPOINTS)
def test_an_endpoint_is_the_url(text: str, url: str) -> None:
    assert endpoint_url(text) == url


@pytest.mark.parametrize("text", ["", "ftp://x", "10.0.0.1:port", "https://user@host", "fd00::1"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no endpoint"):
        endpoint_url(text)


async def test_a_list_is_read_in_pages(server: FakeApiServer, client: Client) -> None:
    for number in range(5):
        server.put(resources.SERVICES, service(f"s{number}"))
    found = await client.list(resources.SERVICES, into=Named, page=2)
    assert [each.metadata.name for each in found.values] == ["s0", "s1", "s2", "s3", "s4"]
    assert server.count("/api/v1/services", watch=False) == 3
    assert found.resource_version == str(server.version)


async def test_a_list_that_expires_between_pages_is_begun_anew(server: FakeApiServer, client: Client) -> None:
    for number in range(3):
        server.put(resources.SERVICES, service(f"s{number}"))

    def expire(request: web.Request) -> None:
        if "continue" in request.query:
            server.intervene = lambda _: None
            server.compact()

    server.intervene = expire
    found = await client.list(resources.SERVICES, into=Named, page=2)
    assert len(found.items) == 3
    assert [each.query.get("continue", "") for each in server.asked] == ["", "2:103", "", "2:104"]


async def test_a_list_that_always_expires_is_asked_for_in_one_piece(
    server: FakeApiServer, client: Client
) -> None:
    for number in range(3):
        server.put(resources.SERVICES, service(f"s{number}"))
    server.intervene = lambda request: server.compact() if "continue" in request.query else None
    found = await client.list(resources.SERVICES, into=Named, page=2)
    assert len(found.items) == 3
    assert "limit" not in server.asked[-1].query


async def test_an_object_of_another_shape_does_not_spoil_the_list(
    server: FakeApiServer, client: Client
) -> None:
    server.put(resources.SERVICES, service("good"))
    server.put(resources.SERVICES, {**service("odd"), "spec": 7})
    found = await client.list(resources.SERVICES, into=Named)
    assert [each.metadata.name for each in found.values] == ["good"]
    assert [(item.name, "int" in item.reason) for item in found.items if item.value is None] == [
        ("odd", True)
    ]


async def test_a_refusal_says_what_was_asked_and_why(server: FakeApiServer, client: Client) -> None:
    sentence = 'services is forbidden: User "u" cannot list resource "services" at the cluster scope'
    server.intervene = lambda _: status(403, "Forbidden", sentence)
    with pytest.raises(ApiServerError) as caught:
        await client.list(resources.SERVICES, into=Named)
    assert str(caught.value) == f"list services: 403 Forbidden: {sentence}"
    assert (caught.value.status, caught.value.reason) == (403, "Forbidden")


async def test_a_page_of_a_proxy_is_quoted(server: FakeApiServer, client: Client) -> None:
    server.intervene = lambda _: web.Response(status=502, text="<html>bad gateway</html>")
    with pytest.raises(ApiServerError, match="get services default/web: 502: <html>bad gateway"):
        await client.get(resources.SERVICES, "web", "default", into=Named)


async def test_a_server_that_asks_for_patience_is_asked_again(server: FakeApiServer, client: Client) -> None:
    server.put(resources.SERVICES, service("web"))

    def busy(_: web.Request) -> web.Response:
        server.intervene = lambda _: None
        return status(429, "TooManyRequests", "later", **{"Retry-After": "0"})

    server.intervene = busy
    assert len((await client.list(resources.SERVICES, into=Named)).items) == 1


async def test_an_endpoint_that_is_down_is_passed_over(server: FakeApiServer) -> None:
    async with Client(Access((nobody(), server.url))) as client:
        await client.list(resources.SERVICES, into=Named)
        assert client.endpoint == server.url


async def test_that_nobody_answers_names_every_endpoint() -> None:
    urls = nobody(), nobody()
    async with Client(Access(urls)) as client:
        with pytest.raises(ApiServerUnreachable) as caught:
            await client.create(resources.SERVICES, service("web"), "default", into=OBJECT)
    assert caught.value.errors == dict.fromkeys(urls, "Connection refused")
    assert str(caught.value).startswith("create services default/web: no API server answers (http://")


async def test_a_change_that_may_have_been_heard_is_not_asked_of_another_server(
    server: FakeApiServer,
) -> None:
    def hang_up(request: web.Request) -> None:
        assert request.transport is not None
        request.transport.abort()

    server.intervene = hang_up
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(serving(FakeApiServer()))
        client = await stack.enter_async_context(Client(Access((server.url, other.url))))
        with pytest.raises(ApiServerUnreachable):
            await client.create(resources.SERVICES, service("web"), "default", into=OBJECT)
        assert (len(server.asked), other.asked) == (1, [])


async def test_a_server_that_fails_is_not_the_next_one_asked(server: FakeApiServer) -> None:
    server.intervene = lambda _: status(500, "InternalError", "etcd is away")
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(serving(FakeApiServer()))
        client = await stack.enter_async_context(Client(Access((server.url, other.url))))
        with pytest.raises(ApiServerError):
            await client.list(resources.SERVICES, into=Named)
        await client.list(resources.SERVICES, into=Named)
        assert client.endpoint == other.url


async def test_a_token_is_not_given_to_a_server_without_tls(server: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    async with Client(Access((server.url,), TokenFile(tmp_path / "token"))) as client:
        with pytest.raises(ConfigError, match="is not https"):
            await client.list(resources.SERVICES, into=Named)
    assert server.asked == []


async def test_server_side_apply_asks_for_what_it_says(server: FakeApiServer, client: Client) -> None:
    server.intervene = lambda request: web.json_response(service("web"))
    await client.patch(
        resources.SERVICES, "web", service("web"), "default", into=OBJECT, kind=APPLY, field_manager="m",
        force=True, dry_run=True,
    )  # fmt: skip
    asked = server.asked[0]
    assert (asked.method, asked.path) == ("PATCH", "/api/v1/namespaces/default/services/web")
    assert dict(asked.query) == {"fieldManager": "m", "force": "true", "dryRun": "All"}
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"


async def test_deleting_what_is_not_there_is_no_error(client: Client) -> None:
    await client.delete(resources.SERVICES, "web", "default")
    with pytest.raises(ApiServerError, match="404 NotFound"):
        await client.delete(resources.SERVICES, "web", "default", missing_ok=False)


async def test_a_watch_yields_that_it_stands_and_then_what_happens(
    server: FakeApiServer, client: Client
) -> None:
    async with aclosing(client.watch(resources.SERVICES, "100", into=Named)) as watch:
        assert await anext(watch) == []
        server.put(resources.SERVICES, service("web"))
        (change,) = await anext(watch)
        assert (change.item.key, change.item.resource_version) == (("default", "web"), "101")
        server.delete(resources.SERVICES, "web", "default")
        (change,) = await anext(watch)
        assert change.gone
        server.bookmark(resources.SERVICES)
        (change,) = await anext(watch)
        assert (change.bookmark, change.item.resource_version) == (True, "103")


async def test_a_watch_of_a_server_that_hangs_ends(server: FakeApiServer) -> None:
    async with (
        Client(Access((server.url,)), silence_s=0.05) as client,
        aclosing(client.watch(resources.SERVICES, "100", into=Named)) as watch,
    ):
        assert await anext(watch) == []
        with pytest.raises(ApiServerUnreachable, match="no answer in time"):
            await anext(watch)


async def test_a_watch_that_breaks_says_so_after_what_it_told(server: FakeApiServer, client: Client) -> None:
    server.put(resources.SERVICES, service("web"))
    async with aclosing(client.watch(resources.SERVICES, "100", into=Named)) as watch:
        assert [len(await anext(watch)), len(await anext(watch))] == [0, 1]
        server.end_watches()
        with pytest.raises(ApiServerUnreachable, match="watch services: no API server answers"):
            await anext(watch)

"""The client of meshd/kubeapi against a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
import pytest

from meshd.errors import ApiServerError
from meshd.kubeapi import kubeconfig
from meshd.kubeapi.client import APPLY, JSON, OBJECT, Client, Object
from meshd.kubeapi.resources import CONFIG_MAPS, NAMESPACES, NODES
from tests.kubernetes.api_server import ApiServerAlone


class ConfigMap(msgspec.Struct):
    data: dict[str, str] = {}


@pytest.fixture
async def client(api_server: ApiServerAlone) -> AsyncIterator[Client]:
    async with Client(kubeconfig.load(api_server.admin)) as client:
        yield client


@pytest.fixture
async def space(client: Client, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[5:60].rstrip("-")
    made: Object = await client.create(NAMESPACES, {"metadata": {"name": name}}, into=OBJECT)
    return str(made["metadata"]["name"])


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


async def test_an_object_is_made_read_changed_and_deleted(client: Client, space: str) -> None:
    await client.create(CONFIG_MAPS, config_map("m", a="1"), space, into=OBJECT)
    with pytest.raises(ApiServerError) as caught:
        await client.create(CONFIG_MAPS, config_map("m"), space, into=OBJECT)
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    change = [{"op": "add", "path": "/data/b", "value": "2"}]
    assert (await client.patch(CONFIG_MAPS, "m", change, space, into=ConfigMap, kind=JSON)).data == {
        "a": "1",
        "b": "2",
    }
    merged = await client.patch(CONFIG_MAPS, "m", {"data": {"a": None}}, space, into=ConfigMap)
    assert merged.data == {"b": "2"}
    whole: Object = await client.get(CONFIG_MAPS, "m", space, into=OBJECT)
    whole["data"] = {"c": "3"}
    assert (await client.replace(CONFIG_MAPS, "m", whole, space, into=ConfigMap)).data == {"c": "3"}
    with pytest.raises(ApiServerError, match="409 Conflict"):
        await client.replace(CONFIG_MAPS, "m", whole, space, into=ConfigMap)
    await client.delete(CONFIG_MAPS, "m", space)
    with pytest.raises(ApiServerError, match=f"get configmaps {space}/m: 404 NotFound"):
        await client.get(CONFIG_MAPS, "m", space, into=ConfigMap)


async def test_apply_makes_and_takes_fields_and_tells_who_has_them(client: Client, space: str) -> None:
    async def apply(
        manager: str, *, force: bool = False, dry_run: bool = False, **data: str
    ) -> dict[str, str]:
        body = config_map("m", **data)
        made = await client.patch(
            CONFIG_MAPS, "m", body, space, into=ConfigMap, kind=APPLY, field_manager=manager, force=force,
            dry_run=dry_run,
        )  # fmt: skip
        return made.data

    assert await apply("one", a="1") == {"a": "1"}
    with pytest.raises(ApiServerError, match=r'409 Conflict: .*conflict with "one"'):
        await apply("two", a="2")
    assert await apply("two", force=True, dry_run=True, a="2") == {"a": "2"}
    assert (await client.get(CONFIG_MAPS, "m", space, into=ConfigMap)).data == {"a": "1"}
    assert await apply("two", force=True, a="2") == {"a": "2"}


async def test_a_list_of_many_pages_is_whole_and_of_one_time(client: Client, space: str) -> None:
    names = [f"m{number:02}" for number in range(23)]
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(client.create(CONFIG_MAPS, config_map(name), space, into=OBJECT))
    found = await client.list(CONFIG_MAPS, space, into=ConfigMap, page=5)
    assert sorted(item.name for item in found.items) == names
    async with aclosing(client.watch(CONFIG_MAPS, found.resource_version, space, into=ConfigMap)) as watch:
        assert await anext(watch) == []
        await client.delete(CONFIG_MAPS, "m07", space)
        (change,) = await anext(watch)
        assert (change.item.name, change.gone) == ("m07", True)
    await client.delete_all(CONFIG_MAPS, space)
    assert (await client.list(CONFIG_MAPS, space, into=ConfigMap)).items == []


async def test_selectors_are_the_servers(client: Client, space: str) -> None:
    for name in ("a", "b"):
        body = config_map(name)
        body["metadata"]["labels"] = {"which": name}
        await client.create(CONFIG_MAPS, body, space, into=OBJECT)
    by_label = await client.list(CONFIG_MAPS, space, into=ConfigMap, labels="which=a")
    by_field = await client.list(CONFIG_MAPS, space, into=ConfigMap, fields="metadata.name!=a")
    assert ([each.name for each in by_label.items], [each.name for each in by_field.items]) == (["a"], ["b"])


async def test_the_server_says_what_it_is(client: Client) -> None:
    assert await client.fetch("/readyz") == b"ok"
    assert msgspec.json.decode(await client.fetch("/version"))["gitVersion"].startswith("v1.36.")
    assert (await client.list(NODES, into=ConfigMap)).items == []

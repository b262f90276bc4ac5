"""Services in a namespace of an API server, for a bench: made, and removed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from meshd.bench.population import BenchService, service_object, slice_object
from meshd.errors import ApiServerError
from meshd.kubeapi.access import Access
from meshd.kubeapi.client import OBJECT, Client, Object
from meshd.kubeapi.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES, Resource

# Requests at a time: an API server has some hundreds of places for all of its clients.
TOGETHER = 32
REMOVAL_TIMEOUT_S = 300.0


class Named(msgspec.Struct, frozen=True):
    name: str


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    cluster_ip: str = msgspec.field(default="", name="clusterIP")


class Listed(msgspec.Struct, frozen=True):
    """A Service, as far as one dials it."""

    metadata: Named
    spec: Spec = Spec()


class Answer(msgspec.Struct, frozen=True):
    """Nothing of an answer but that it is one."""


async def populate(
    access: Access, namespace: str, services: Sequence[BenchService], say: Callable[[str], None]
) -> list[BenchService]:
    """``services`` with the addresses that the API server chose; their slices are there, too."""
    done = 0
    places = asyncio.Semaphore(TOGETHER)

    async with Client(access) as client:

        async def make(resource: Resource, body: Object) -> None:
            nonlocal done
            async with places:
                await client.create(resource, body, namespace, into=OBJECT)
            done += 1
            say(f"{done:,} of {2 * len(services):,} objects")

        await client.create(NAMESPACES, {"metadata": {"name": namespace}}, into=OBJECT)
        for resource, body in ((SERVICES, service_object), (ENDPOINT_SLICES, slice_object)):
            async with asyncio.TaskGroup() as tasks:
                for service in services:
                    tasks.create_task(make(resource, body(service, namespace)))
        found = await client.list(SERVICES, namespace, into=Listed)
    addresses = {each.metadata.name: each.spec.cluster_ip for each in found.values}
    return [replace(service, address=addresses[service.name]) for service in services]


async def remove(access: Access, namespace: str) -> None:
    """The namespace and what is in it: where no controller runs, nobody else would empty it."""
    async with Client(access, timeout_s=REMOVAL_TIMEOUT_S) as client:
        for resource in (ENDPOINT_SLICES, SERVICES):
            while (await client.list(resource, namespace, into=Answer)).items:
                # Of very many it takes longer than a server gives a request: it says so, and has done a part.
                with contextlib.suppress(ApiServerError):
                    await client.delete_all(resource, namespace)
        await client.delete(NAMESPACES, namespace)

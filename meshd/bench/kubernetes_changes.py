"""Changes of backends in an API server, timed to the kernel of a node, while others go on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshd.bench.kubernetes_population import TOGETHER, Answer
from meshd.bench.places import BenchError
from meshd.bench.population import BACKENDS_EACH, BenchService
from meshd.bench.propagation import Kernel
from meshd.kubeapi.access import Access
from meshd.kubeapi.client import JSON, Client
from meshd.kubeapi.resources import ENDPOINT_SLICES

TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.0002


class Change(NamedTuple):
    """Milliseconds until the kernel had it: from the request, and from the API server's answer (0: before it)."""

    from_request_ms: float
    from_answer_ms: float


async def changes(
    access: Access,
    namespace: str,
    held: Kernel,
    services: Sequence[BenchService],
    count: int,
    rate: int,
    say: Callable[[str], None],
) -> tuple[list[Change], float]:
    """The times of ``count`` changes, and how many others there were a second, of ``rate`` that were wanted.

    The others are about other services, if there are any.
    """
    half = len(services) // 2 + 1
    timed, others = services[:half], services[half:]
    found: list[Change] = []
    answered = Counter[str]()
    async with Client(access) as client, asyncio.TaskGroup() as tasks:
        stream = tasks.create_task(_go_on(client, namespace, others, rate, answered))
        began = time.monotonic()
        for number in range(count):
            say(f"{number + 1} of {count}")
            service = timed[number // 2 % len(timed)]
            found.append(await _one(client, namespace, held, service, number % 2 == 1))
        took_s = time.monotonic() - began
        stream.cancel()
    return found, answered["changes"] / took_s


async def _one(client: Client, namespace: str, held: Kernel, service: BenchService, ready: bool) -> Change:
    """A backend of ``service`` becomes not ready, or ready again."""
    expected = BACKENDS_EACH - (not ready)
    began = time.monotonic()
    request = asyncio.create_task(_toggle(client, namespace, service, ready))
    while held.backends(service) != expected:
        if time.monotonic() - began > TIMEOUT_S:
            raise BenchError(
                f"service {service.name} should have {expected} backends in the kernel, "
                f"after {TIMEOUT_S:g} s it has {held.backends(service)}"
            )
        await asyncio.sleep(LOOK_EVERY_S)
    seen = time.monotonic()
    answered = await request
    return Change((seen - began) * 1e3, max(seen - answered, 0.0) * 1e3)


async def _toggle(client: Client, namespace: str, service: BenchService, ready: bool) -> float:
    """When the API server had answered."""
    change = [{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": ready}]
    name = f"{service.name}-1"
    await client.patch(ENDPOINT_SLICES, name, change, namespace, into=Answer, kind=JSON)
    return time.monotonic()


async def _go_on(
    client: Client, namespace: str, services: Sequence[BenchService], rate: int, answered: Counter[str]
) -> None:
    """``rate`` changes a second until cancelled, or as many as the API server can do; ``answered`` counts them."""
    if not rate or not services:
        return
    places = asyncio.Semaphore(TOGETHER)

    async def change(service: BenchService, ready: bool) -> None:
        try:
            await _toggle(client, namespace, service, ready)
            answered["changes"] += 1
        finally:
            places.release()

    began, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as tasks:
        while True:
            await places.acquire()
            tasks.create_task(change(services[number // 2 % len(services)], number % 2 == 1))
            number += 1
            await asyncio.sleep(max(began + number / rate - time.monotonic(), 0.0))

"""/healthz and /readyz: what a kubelet asks before it restarts the agent, or before it replaces the next one.

Alive is who answers: the loop turns. That depends on nothing outside, because a restart would mend nothing there. Ready is
who can serve new pods; why not is in the answer.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from meshd.errors import ConfigError
from meshd.servers.metrics import place_of
from meshd.servers.readiness import Readiness

log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving_health(listen: str, readiness: Readiness) -> AsyncIterator[int]:
    """Answers at ``listen`` (host:port); the port, which differs if that leaves the choice to the kernel (0).

    Raises:
        ConfigError: the address cannot be bound.
    """

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reason = readiness.reason
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    place = place_of(listen, "health.listen")
    application = web.Application()
    application.router.add_get("/healthz", alive)
    application.router.add_get("/readyz", ready)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, place.host, place.port)
        try:
            await site.start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(f"health.listen {listen}: {reason}") from error
        log.info("health is served", host=place.host, port=runner.addresses[0][1])
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()

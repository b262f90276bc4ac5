"""/healthz and /readyz."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession

from meshd.errors import ConfigError
from meshd.servers.health import serving_health
from meshd.servers.readiness import Readiness


async def test_alive_is_who_answers_and_ready_who_can_serve() -> None:
    readiness = Readiness()
    async with serving_health("127.0.0.1:0", readiness) as port, ClientSession() as client:

        async def ask(what: str) -> tuple[int, str]:
            async with client.get(f"http://127.0.0.1:{port}/{what}") as answer:
                return answer.status, await answer.text()

        assert await ask("healthz") == (200, "ok\n")
        assert await ask("readyz") == (503, "starting\n")
        readiness.reason = "the Node has no pod CIDRs"
        assert await ask("readyz") == (503, "the Node has no pod CIDRs\n")
        readiness.reason = ""
        assert await ask("readyz") == (200, "ok\n")
        assert (await ask("other"))[0] == 404


async def test_an_address_that_is_taken_is_named_with_its_option() -> None:
    async with serving_health("127.0.0.1:0", Readiness()) as port:
        with pytest.raises(ConfigError, match=f"health.listen 127.0.0.1:{port}: Address already in use"):
            async with serving_health(f"127.0.0.1:{port}", Readiness()):
                pass

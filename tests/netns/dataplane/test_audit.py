"""An audit puts right what somebody else changed, and never what the agent changed meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from meshd.model import Frontend, Protocol, Service, ServiceName, parse_address
from meshd.state.mesh import Object
from tests.netns.dataplane.node import BACKENDS4, Node, backend, backends

SERVICES = 3000


def one(number: int, address: str) -> list[Object]:
    """A service of one TCP frontend and one backend."""
    name = ServiceName("default", f"service-{number}")
    vip = parse_address(f"10.97.{number // 250}.{number % 250}")
    return [
        Service(name, "manifests", (Frontend(vip, 80, Protocol.TCP, "http"),)),
        replace(backends(backend(address)), service=name),
    ]


async def test_an_audit_does_not_undo_what_is_written_while_it_runs(node: Node) -> None:
    async with node.agent() as dataplane:
        first = [each for number in range(SERVICES) for each in one(number, BACKENDS4[0])]
        await node.settle(node.mesh.replace("manifests", first))
        frontends = dataplane.maps["frontends"]
        rows = dict(frontends.items())
        # The first rows that the audit will meet: changed by somebody else, one removed, one added.
        spoilt = list(rows)[:500]
        for key in spoilt:
            frontends.update(key, bytes(frontends.value_size))
        frontends.delete(list(rows)[1000])
        audit = asyncio.create_task(dataplane.auditor.audit())
        while not audit.done():
            # The agent writes all of them again, to the other backend, in the middle of it.
            address = BACKENDS4[1 + node.mesh.revision % 2]
            node.mesh.apply("manifests", [one(number, address)[1] for number in range(SERVICES)])
            await node.settle()
        await audit
        assert dict(frontends.items()) == dataplane.delta.observed["frontends"]
        assert {key for key, _ in frontends.items()} == rows.keys()

"""meshd.v1.MapService: the kernel's maps as they are, field by field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec

from meshd.api.v1 import map_pb2, map_pb2_grpc
from meshd.servers.control.callers import Context
from meshd.servers.control.replies import map_message
from meshd.servers.introspection import Introspection

# Of one message, and of one turn of the event loop.
ENTRIES_MAX = 200


@dataclass(frozen=True, slots=True)
class Maps(map_pb2_grpc.MapServiceServicer):
    """What the agent has in the kernel."""

    introspection: Introspection

    async def ListMaps(self, request: map_pb2.ListMapsRequest, context: Context) -> map_pb2.ListMapsResponse:
        found = sorted(self.introspection.maps(), key=lambda one: one.name)
        return map_pb2.ListMapsResponse(maps=[map_message(one) for one in found])

    async def DumpMap(
        self, request: map_pb2.DumpMapRequest, context: Context
    ) -> AsyncIterator[map_pb2.DumpMapResponse]:
        rows = self.introspection.dump(request.name)
        while part := list(islice(rows, ENTRIES_MAX)):
            yield map_pb2.DumpMapResponse(
                entries=[map_pb2.MapEntry(key=as_json(row.key), value=as_json(row.value)) for row in part]
            )
            await asyncio.sleep(0)


def as_json(fields: Mapping[str, object]) -> str:
    """``fields`` as JSON; bytes as hex, integers with all of their 64 bits."""
    return msgspec.json.encode(shown(fields)).decode()


def shown(value: object) -> object:
    """``value`` with its bytes as hex, which is what one compares with other tools."""
    match value:
        case bytes():
            return value.hex()
        case Mapping():
            return {str(name): shown(part) for name, part in value.items()}
        case list() | tuple():
            return [shown(part) for part in value]
        case _:
            return value

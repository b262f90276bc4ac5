#!/usr/bin/env python3
"""Stands in for Envoy where the way through a proxy is tested and not the proxy: takes what the bench tells Envoy, and
passes on bytes as a TCP proxy does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml


def _at(found: Any) -> tuple[str, int]:  # Any: of the YAML
    return found["address"]["socket_address"]["address"], found["address"]["socket_address"]["port_value"]


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


async def main(resources: Any) -> None:  # Any: of the YAML
    (listener,), (cluster,) = resources["listeners"], resources["clusters"]
    to = _at(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_connection(*to)
        await asyncio.gather(_pass(reader, far), _pass(near, writer))
        writer.close()
        far.close()

    server = await asyncio.start_server(serve, *_at(listener))
    sys.stdout.write("all dependencies initialized. starting main dispatch loop\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    told = yaml.safe_load(Path(sys.argv[sys.argv.index("--config-path") + 1]).read_text())
    asyncio.run(main(told["static_resources"]))

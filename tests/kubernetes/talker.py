"""In a pod: `serve PORT` sends back what comes, `talk ADDRESS PORT` sends messages, one after the other, says every second
how many have come back whole, and ends with an error at the first that has not."""

from __future__ import annotations

import asyncio
import os
import sys
import time


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port: str) -> None:
    server = await asyncio.start_server(echo, "0.0.0.0", int(port))
    await server.serve_forever()


async def talk(address: str, port: str) -> None:
    reader, writer = await asyncio.open_connection(address, int(port))
    rounds, said = 0, time.monotonic()
    while True:
        message = os.urandom(200)
        writer.write(message)
        assert await reader.readexactly(200) == message
        rounds += 1
        await asyncio.sleep(0.001)
        if time.monotonic() - said > 1:
            print(rounds, flush=True)
            said = time.monotonic()


asyncio.run(serve(sys.argv[2]) if sys.argv[1] == "serve" else talk(sys.argv[2], sys.argv[3]))

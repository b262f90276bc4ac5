"""Answers each line of a TCP connection, and each datagram, with this server's name and what was sent: `NAME WORDS`.

    python server.py NAME ADDRESS PORT

Runs in pods with the agent's image, and outside the cluster with any Python: the standard library only.
"""

import asyncio
import sys

NAME = sys.argv[1].encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            writer.write(NAME + b" " + line)
            await writer.drain()
    except OSError:
        pass  # the client accounts for it
    finally:
        writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance of DatagramTransport before Python 3.12.
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(NAME + b" " + data, addr)


async def main() -> None:
    address, port = sys.argv[2], int(sys.argv[3])
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, local_addr=(address, port))
    server = await asyncio.start_server(serve, address, port, backlog=1024)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())

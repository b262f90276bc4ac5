"""The Unix socket of the control API, so that every change can be logged with who made it.

gRPC does not tell who is at the other end of a Unix socket; the kernel does (SO_PEERCRED, unix(7)), to whoever accepts the
connection. So connections are accepted here and passed on to gRPC's own socket, which nobody but this process can reach,
from an address that says who called: gRPC shows it as the peer of each call.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from meshd.errors import ConfigError

# The process and its group: whoever may open the socket may do everything.
SOCKET_MODE = 0o660
UMASK = 0o777 & ~SOCKET_MODE

# struct ucred of linux/socket.h: process, user, group.
_CREDENTIALS = struct.Struct("3i")
_CHUNK_BYTES = 64 * 1024
_PEER = "unix-abstract:meshd-caller/"


def inner_path(path: Path) -> Path:
    """Where gRPC listens for what arrives at ``path``: as short as that, because such paths are limited to 107 bytes."""
    return path.parent / "callers" / "s"


def caller_name(peer: str) -> str | None:
    """Who called, from what gRPC says of the connection: ``uid 0 pid 4711``; None: not over the Unix socket."""
    if not peer.startswith(_PEER):
        return None
    uid, pid, _ = peer.removeprefix(_PEER).split("/", 2)
    return f"uid {uid} pid {pid}"


@asynccontextmanager
async def accepted(path: Path) -> AsyncIterator[None]:
    """Connections to ``path`` (mode 0660) reach whoever listens at ``inner_path(path)``, whose directory is ours alone.

    Raises:
        ConfigError: it cannot be bound.
    """
    connections: set[asyncio.Task[None]] = set()
    # Nobody else can take an address beforehand that has this in it.
    token, numbers = secrets.token_hex(8), itertools.count()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_pass_on(reader, writer, inner_path(path), f"{token}-{next(numbers)}"))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_unix_server(accept, sock=_bound(path), backlog=512)
    try:
        yield
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        shutil.rmtree(inner_path(path).parent, ignore_errors=True)


def make_inner_directory(path: Path) -> None:
    """The directory of ``inner_path(path)``, empty and closed to others.

    Raises:
        ConfigError: it cannot be made.
    """
    directory = inner_path(path).parent
    try:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"control socket {path}: {error.strerror} ({directory})") from error


def _bound(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the first instant.
    before = os.umask(UMASK)
    try:
        made.bind(str(path))
    except OSError as error:
        made.close()
        raise ConfigError(f"control socket {path} cannot be bound: {error.strerror or error}") from error
    finally:
        os.umask(before)
    return made


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: Path, unique: str
) -> None:
    """Until both ends have said all. An end that is gone is heard of at the other by the end of its stream."""
    with closing(writer), suppress(OSError):
        raw = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        outgoing = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        outgoing.setblocking(False)
        with closing(outgoing):
            outgoing.bind(f"\0{_PEER.removeprefix('unix-abstract:')}{uid}/{pid}/{unique}")
            await asyncio.get_running_loop().sock_connect(outgoing, str(inner))
            inner_reader, inner_writer = await asyncio.open_connection(sock=outgoing)
            with closing(inner_writer):
                async with asyncio.TaskGroup() as directions:
                    directions.create_task(_copy(reader, inner_writer))
                    directions.create_task(_copy(inner_reader, writer))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends. What is not taken is not read: a slow reader is slow all the way to gRPC."""
    with suppress(OSError):
        while data := await source.read(_CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    with suppress(OSError, RuntimeError):
        sink.write_eof()

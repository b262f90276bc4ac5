"""How the shim and the agent speak, on a Unix socket, one question a connection. The other side is deploy/cni/meshd_cni.c.

    to the agent     u32 length of E, u32 length of C, E, C      E: JSON object of the variables, C: stdin as it was
    from the agent   u32 length of A, u32 exit status, A          A: what goes to stdout

Numbers are big-endian.
"""

from __future__ import annotations

import asyncio
import struct

import msgspec

from meshd.servers.cni.errors import INVALID_CONFIG, UNDECODABLE, CniError

HEADER = struct.Struct(">II")
ENVIRONMENT_BYTES = 64 << 10
CONFIG_BYTES = 1 << 20


async def read_question(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """The variables and the network configuration of a runtime.

    Raises:
        CniError: too long, or no JSON; asyncio.IncompleteReadError: the other side went away.
    """
    environment_length, config_length = HEADER.unpack(await reader.readexactly(HEADER.size))
    if environment_length > ENVIRONMENT_BYTES or config_length > CONFIG_BYTES:
        raise CniError(INVALID_CONFIG, "the configuration is longer than 1 MiB, or the variables than 64 KiB")
    environment = await reader.readexactly(environment_length)
    config = await reader.readexactly(config_length)
    try:
        return msgspec.json.decode(environment, type=dict[str, str]), config
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CniError(UNDECODABLE, "the variables are not UTF-8", str(error)) from error


def answer(text: bytes, status: int) -> bytes:
    """The frame of an answer; ``status`` is the exit status of the shim."""
    return HEADER.pack(len(text), status) + text

"""Which containerd runs on this machine: asked over its socket, because the one that runs counts, otherwise its program."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
TIMEOUT_S = 10.0
_VERSION_CALL = "/containerd.services.version.v1.Version/Version"


def containerd_version(socket: Path = CONTAINERD_SOCKET) -> str:
    """What the containerd of this machine says of its version; empty where there is none."""
    return (_of_daemon(socket) if socket.is_socket() else "") or _of_program()


def _of_daemon(socket: Path) -> str:
    import grpc  # noqa: PLC0415 - slow to import, and needed only where a daemon runs

    with grpc.insecure_channel(
        f"unix:{socket}", options=[("grpc.default_authority", "localhost")]
    ) as channel:
        # Any: grpc's types know calls of generated messages only.
        call: Any = channel.unary_unary(_VERSION_CALL, None, first_string)
        try:
            return str(call(b"", timeout=TIMEOUT_S))
        except grpc.RpcError:
            return ""


def _of_program() -> str:
    command = ["containerd", "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def first_string(message: bytes) -> str:
    """Field 1 of a protobuf message, if it is a string shorter than 128 bytes and comes first; else empty."""
    if len(message) < 2 or message[0] != 0x0A or message[1] >= 0x80:
        return ""
    return message[2 : 2 + message[1]].decode(errors="replace")

"""The connection to an agent, and what its refusals mean for a user."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from meshd.ctl.errors import CtlError, UsageError

# Pages of a list are below it, and one service with very many backends is not far above gRPC's own 4 MiB.
MESSAGE_MAX_BYTES = 64 * 1024 * 1024


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[grpc.Channel]:
    """A channel to the agent that ``options`` name; refusals leave it as errors for the user.

    Raises:
        CtlError: in one line.
    """
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
        # A proxy of the environment is for the world outside, never for the control API.
        ("grpc.enable_http_proxy", 0),
    ]
    if options.server:
        if options.tls_server_name:
            arguments.append(("grpc.ssl_target_name_override", options.tls_server_name))
        channel = grpc.secure_channel(options.server, credentials(options), options=arguments)
    else:
        if not options.socket.exists():
            raise CtlError(f"no agent at {options.socket}: the socket does not exist (--socket, --server)")
        channel = grpc.insecure_channel(f"unix:{options.socket.absolute()}", options=arguments)
    try:
        yield channel
    except grpc.RpcError as error:
        raise explained(error, options) from error
    finally:
        channel.close()


def credentials(options: argparse.Namespace) -> grpc.ChannelCredentials:
    """For mTLS.

    Raises:
        UsageError: a file is not named; CtlError: it cannot be read.
    """
    files: dict[str, Path | None] = {
        "--tls-ca": options.tls_ca,
        "--tls-cert": options.tls_cert,
        "--tls-key": options.tls_key,
    }
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise UsageError(f"--server needs {', '.join(missing)}: the agent is reached over mTLS only")
    try:
        ca, certificate, key = (path.read_bytes() for path in files.values() if path is not None)
    except OSError as error:
        raise CtlError(f"{error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(ca, key, certificate)


def explained(error: grpc.RpcError, options: argparse.Namespace) -> CtlError:
    """What ``error`` means for the user."""
    code, text = code_of(error), str(error.details()) if isinstance(error, grpc.Call) else str(error)
    place = options.server or options.socket
    if code is grpc.StatusCode.UNAVAILABLE and "journal " not in text:
        # gRPC lists every address and attempt; the last cause is at the end.
        return CtlError(f"cannot reach the agent at {place}: {text.rpartition('error: ')[2]}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and "accepted" not in text:
        return CtlError(f"the agent at {place} did not answer within {options.timeout:g} s")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return CtlError(f"the agent at {place} does not know this call; it is of another version")
    return CtlError(text)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status of a failed call."""
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN

"""Connections to the members of one etcd: an address each, certificates re-read when their files change.

gRPC reads certificates once per channel, so new files mean a new channel. The old one stays open for the
calls and watches that run on it and is closed when the last of them ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc.aio
import structlog

from clustermesh.errors import OptionsError

log = structlog.get_logger()

RECHECK_FILES_S = 1.0
"""How often, at most, the certificate files are looked at (a stat each)."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # grpc's own backoff of up to two minutes would outlast any restart of an etcd; and an etcd that is back after long
    # is to be heard within a second, whatever the last attempt's luck was. One SYN a member twice a second is nothing.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A peer that vanished without a word is noticed after 40 s; etcd tolerates pings from 5 s on.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 25_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Each channel has its own connection: a new one must not reuse a session of old certificates.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authority that signed the servers, and our own certificate and key (both or neither).

    ``trusted_ca`` None means the system's authorities.
    """

    trusted_ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise OptionsError("a client certificate needs its key and a key its certificate")

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes whenever one of the files does, also when a symbolic link above it is swapped."""
        paths = [path for path in (self.trusted_ca, self.certificate, self.key) if path is not None]
        stats = [path.stat() for path in paths]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials from the files as they are now; OSError when one cannot be read."""
        authority, key, certificate = (
            path.read_bytes() if path else None for path in (self.trusted_ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(authority, key, certificate)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member: ``host`` as its certificate names it, and ``port``.

    ``addresses``: what to dial instead of looking ``host`` up.
    """

    host: str
    port: int
    secure: bool
    addresses: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """What gRPC dials."""
        if not self.addresses:
            host = f"[{self.host}]" if ":" in self.host else self.host
            return f"dns:///{host}:{self.port}"
        scheme = "ipv6" if ":" in self.addresses[0] else "ipv4"
        hosts = (f"[{address}]" if ":" in address else address for address in self.addresses)
        return f"{scheme}:" + ",".join(f"{host}:{self.port}" for host in hosts)


def parse_endpoint(url: str, aliases: Mapping[str, Sequence[str]] | None = None) -> Endpoint:
    """The endpoint ``url`` names ("https://host:2379"; without a scheme it is plain text, as etcd clients
    read it).

    ``aliases``: host name -> addresses to dial for it. Raises OptionsError for anything that is no such URL.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port or 2379
    except ValueError as error:
        raise OptionsError(f"endpoint {url!r}: {error}") from error
    if parts.scheme not in {"http", "https"} or not host or parts.path not in {"", "/"}:
        raise OptionsError(f"endpoint {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    return Endpoint(host, port, parts.scheme == "https", tuple((aliases or {}).get(host, ())))


class _Channel:
    """A gRPC channel that counts who uses it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.users = 0
        self.retired = False


class Connection:
    """The connection to one endpoint. ``use()`` lends the channel that has the current certificates."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None, receive_limit_bytes: int) -> None:
        self.endpoint = endpoint
        self._tls = tls or TlsFiles()
        self._receive_limit_bytes = receive_limit_bytes
        self._current: _Channel | None = None
        self._stamp: tuple[tuple[int, int, int], ...] = ()
        self._checked_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def use(self) -> Iterator[grpc.aio.Channel]:
        """The channel, kept open until the block ends. OSError if certificates were never readable."""
        held = self._channel()
        held.users += 1
        try:
            yield held.channel
        finally:
            held.users -= 1
            if held.retired and held.users == 0:
                self._close(held)

    async def close(self) -> None:
        """Close everything; calls under way end."""
        if self._current is not None:
            self._close(self._current)
            self._current = None
        await asyncio.gather(*self._closing)

    def _channel(self) -> _Channel:
        if self._current is not None and not self._files_changed():
            return self._current
        fresh = self._open()
        if fresh is None:
            assert self._current is not None  # noqa: S101 - _open raises when there is nothing to fall back on
            return self._current
        if self._current is not None:
            self._current.retired = True
            if self._current.users == 0:
                self._close(self._current)
        self._current = fresh
        return fresh

    def _files_changed(self) -> bool:
        if not self.endpoint.secure or time.monotonic() - self._checked_at < RECHECK_FILES_S:
            return False
        self._checked_at = time.monotonic()
        with contextlib.suppress(OSError):
            return self._tls.stamp() != self._stamp
        return False  # files on their way out or in: what we have still works

    def _open(self) -> _Channel | None:
        options: list[tuple[str, int | str]] = [
            *CHANNEL_OPTIONS,
            ("grpc.max_receive_message_length", self._receive_limit_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        if not self.endpoint.secure:
            return _Channel(grpc.aio.insecure_channel(self.endpoint.target, options))
        if self.endpoint.addresses:
            options.append(("grpc.ssl_target_name_override", self.endpoint.host))
        try:
            stamp = self._tls.stamp()
            credentials = self._tls.credentials()
        except OSError as error:
            if self._current is None:
                raise
            log.warning("certificates unreadable, keeping the ones in use", error=str(error))
            return None
        self._stamp, self._checked_at = stamp, time.monotonic()
        return _Channel(grpc.aio.secure_channel(self.endpoint.target, credentials, options))

    def _close(self, held: _Channel) -> None:
        task = asyncio.get_running_loop().create_task(held.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

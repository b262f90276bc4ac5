"""Requests to whichever API server answers: endpoints in turn, credentials as they are now, dead connections noticed.

A watch may be silent for a minute, so that nobody answers any more is found out by TCP (keepalive), not by a read that
takes too long.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp

from meshd.errors import ApiServerUnreachable, ConfigError
from meshd.kubeapi.access import Access
from meshd.kubeapi.credentials import TlsContexts

CONNECT_S = 3.0
# A peer that vanished is noticed after 15 s of silence and three unanswered questions, or 20 s of unanswered data.
KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_TIMES = 15, 5, 3
UNANSWERED_MS = 20_000

_SAFE = ("GET", "HEAD")
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# What can happen to a connection.
BROKEN = (aiohttp.ClientError, TimeoutError, OSError)


class Question(NamedTuple):
    """One request; ``what`` names it in errors, as in ``list services``."""

    what: str
    method: str
    path: str
    query: Mapping[str, str] = {}
    body: bytes | None = None
    content_type: str = ""


class Heard(NamedTuple):
    """A response, whose body is not read yet, and who gave it."""

    response: aiohttp.ClientResponse
    endpoint: str


class Transport:
    """Use as ``async with``. ``user_agent`` is what the API server's audit log calls us."""

    def __init__(self, access: Access, user_agent: str) -> None:
        if not access.endpoints:
            raise ConfigError("no endpoint of an API server is known: name one")
        self._access = access
        self._user_agent = user_agent
        self._tls = TlsContexts(access.trust)
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0

    async def __aenter__(self) -> Self:
        # No limit of connections: each watch holds one.
        connector = aiohttp.TCPConnector(limit=0, socket_factory=_socket)
        # Requests ask for what is named, as who is named: nothing from the environment, no cookies.
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._user_agent, "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def endpoint(self) -> str:
        """The one that is asked next."""
        return self._access.endpoints[self._turn % len(self._access.endpoints)]

    def next_endpoint(self, failed: str) -> None:
        """``failed`` did not do: ask the next one, unless somebody turned already."""
        if self.endpoint == failed:
            self._turn += 1

    @asynccontextmanager
    async def ask(
        self, question: Question, *, timeout_s: float, read_s: float | None = None
    ) -> AsyncIterator[Heard]:
        """The response of the first endpoint that gives one, whatever its status but 401; its body is not read yet.

        ``timeout_s`` is for all of it, ``read_s`` for each piece of the body. What may change something is asked of another
        endpoint only if the first cannot have heard it.

        Raises:
            ApiServerUnreachable: nobody answered; ConfigError: the credentials cannot be read.
        """
        heard = await self._first(question, timeout_s, read_s)
        try:
            yield heard
        finally:
            # Half read, so the connection is no use to anybody; a body that was read whole gave it back before.
            _hang_up(heard.response)

    async def _first(self, question: Question, timeout_s: float, read_s: float | None) -> Heard:
        errors: dict[str, str] = {}
        for _ in self._access.endpoints:
            endpoint = self.endpoint
            try:
                response = await self._one(endpoint, question, timeout_s, read_s)
            except BROKEN as error:
                errors[endpoint] = described(error)
                self.next_endpoint(endpoint)
                if question.method not in _SAFE and not isinstance(error, _NEVER_SENT):
                    break
                continue
            return Heard(response, endpoint)
        raise ApiServerUnreachable(question.what, errors)

    async def _one(
        self, endpoint: str, question: Question, timeout_s: float, read_s: float | None
    ) -> aiohttp.ClientResponse:
        response = await self._send(endpoint, question, timeout_s, read_s)
        if response.status == 401 and self._access.bearer.refused():
            _hang_up(response)
            response = await self._send(endpoint, question, timeout_s, read_s)
        return response

    async def _send(
        self, endpoint: str, question: Question, timeout_s: float, read_s: float | None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise ConfigError("the client is closed")
        access = self._access
        headers = dict(access.impersonate)
        token = await access.bearer.token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if question.content_type:
            headers["Content-Type"] = question.content_type
        secured: dict[str, Any] = {}  # Any: arguments of different types
        if endpoint.startswith("https:"):
            secured["ssl"] = self._tls.context(access.bearer.certificate())
            secured["server_hostname"] = access.trust.server_name or urlsplit(endpoint).hostname
        elif token:
            raise ConfigError(f"{endpoint} is not https: it is not given a token")
        return await self._session.request(
            question.method,
            endpoint + question.path,
            params=question.query,
            data=question.body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S, sock_read=read_s),
            **secured,
        )


def _hang_up(response: aiohttp.ClientResponse) -> None:
    """Closes its connection now: to say goodbye in TLS would take longer than the loop may live."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def described(error: BaseException) -> str:
    """What went wrong, in few words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number) if number else str(error.os_error)
    if isinstance(error, TimeoutError | aiohttp.ServerTimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended within the answer"
    return str(error) or type(error).__name__


def _socket(address: Any) -> socket.socket:  # Any: aiohappyeyeballs' tuple, as of getaddrinfo
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_TIMES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
    return made

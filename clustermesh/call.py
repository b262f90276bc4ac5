"""One call to etcd that survives a dead member: which endpoint, how long, when to repeat, with which token.

Learnt from etcd 3.4: over TLS a graceful stop ends calls with INTERNAL, so everything but a plain refusal
is worth another member; a put that a follower of a dead leader accepted hangs, so an attempt is short and
the whole deadline longer; tokens vanish when a member restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from clustermesh.channel import Connection, Endpoint, TlsFiles
from clustermesh.errors import (
    Compacted,
    KvError,
    KvRefused,
    KvUnavailable,
    LeaseLost,
    OptionsError,
    StoreReplaced,
)
from clustermesh.etcdapi.etcdserverpb import rpc_pb2, rpc_pb2_grpc

FINAL_CODES = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)
RETRY_PAUSE_S = 0.1
# Users changed between a request and its turn; it was not done (etcd, ErrAuthOldRevision).
AUTH_CHANGED = "auth store is old"

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class KvOptions:
    """How patient the adapter is. Times in seconds."""

    attempt_timeout_s: float = 1.5
    deadline_s: float = 8.0
    page_keys: int = 256
    receive_limit_bytes: int = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """User and password of etcd's own authentication; the password appears in no text form."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


class Answer(Protocol):
    """Every answer of etcd says who gave it."""

    @property
    def header(self) -> rpc_pb2.ResponseHeader: ...


AnswerT = TypeVar("AnswerT", bound=Answer)
Invoke = Callable[[grpc.aio.Channel, Metadata, float], Awaitable[AnswerT]]


class Caller:
    """The members of one etcd, the token and the cluster id that all calls of one adapter share."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        credentials: Credentials | None,
        tls: TlsFiles | None,
        options: KvOptions,
    ) -> None:
        if not endpoints:
            raise OptionsError("no endpoint given")
        self.options = options
        self.cluster_id: int | None = None
        self._connections = [Connection(endpoint, tls, options.receive_limit_bytes) for endpoint in endpoints]
        self._index = 0
        self._credentials = credentials
        self._token: str | None = None
        self._renewing = asyncio.Lock()

    @property
    def connection(self) -> Connection:
        """The member that calls go to at present."""
        return self._connections[self._index]

    def rotate(self, failed: Connection) -> None:
        """Go on with the next member, unless somebody already left ``failed``."""
        if failed is self.connection:
            self._index = (self._index + 1) % len(self._connections)

    async def close(self) -> None:
        """Close all connections; calls under way end."""
        for connection in self._connections:
            await connection.close()

    async def call(
        self,
        operation: str,
        key: str,
        invoke: Invoke[AnswerT],
        *,
        repeatable: bool = True,
        deadline_s: float | None = None,
    ) -> AnswerT:
        """The answer of the first member that gives one.

        ``repeatable`` False sends the request at most once: only when a member is known to be connected.

        Raises:
            KvUnavailable: the deadline passed; whether a write happened is not known.
            KvRefused, Compacted, LeaseLost, StoreReplaced: see there.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + (self.options.deadline_s if deadline_s is None else deadline_s)
        last, attempts, renewed = "no attempt was made", 0, False
        while (left := ends - loop.time()) > 0:
            connection = self.connection
            # After a whole round of members a request that needs longer gets longer.
            patience = self.options.attempt_timeout_s * 2 ** (attempts // len(self._connections))
            attempts += 1
            try:
                if not repeatable:
                    await self._connected(connection, min(patience, left))
                timeout_s = min(patience, left) if repeatable else left
                return await self._attempt(operation, connection, invoke, timeout_s)
            except grpc.aio.AioRpcError as error:
                if needs_token(error) and self._credentials is not None and not renewed:
                    renewed, self._token = True, None
                    continue
                final = final_error(operation, key, error)
                if final is not None:
                    raise final from error
                last = describe(error)
                if not repeatable:
                    break
            except (TimeoutError, OSError) as error:
                last = str(error) or "not connected in time"
            self.rotate(connection)
            await asyncio.sleep(min(RETRY_PAUSE_S, max(0.0, ends - loop.time())))
        raise KvUnavailable(operation, key, f"{last} ({connection.endpoint.target}, attempts: {attempts})")

    async def metadata(self, channel: grpc.aio.Channel, timeout_s: float) -> Metadata:
        """The token as metadata, fetched if there is none; empty where etcd asks for none."""
        if self._credentials is None:
            return ()
        async with self._renewing:
            if self._token is None:
                self._token = await self._authenticate(channel, timeout_s, self._credentials)
        return (("token", self._token),) if self._token else ()

    def forget_token(self) -> bool:
        """Make the next call fetch a new token; False if there is no user to fetch one for."""
        self._token = None
        return self._credentials is not None

    def check_pin(self, operation: str, header: rpc_pb2.ResponseHeader) -> None:
        """Latch the first cluster id seen; StoreReplaced when another one answers later."""
        if not header.cluster_id:
            return  # etcd 3.4 answers Defragment without one
        if self.cluster_id is None:
            self.cluster_id = header.cluster_id
        elif header.cluster_id != self.cluster_id:
            reason = f"answer from etcd cluster {header.cluster_id:x}, pinned to {self.cluster_id:x}"
            raise StoreReplaced(operation, "", reason)

    async def _attempt(
        self, operation: str, connection: Connection, invoke: Invoke[AnswerT], timeout_s: float
    ) -> AnswerT:
        with connection.use() as channel:
            metadata = await self.metadata(channel, timeout_s)
            answer = await invoke(channel, metadata, timeout_s)
        self.check_pin(operation, answer.header)
        return answer

    async def _connected(self, connection: Connection, timeout_s: float) -> None:
        with connection.use() as channel:
            async with asyncio.timeout(timeout_s):
                await channel.channel_ready()

    async def _authenticate(self, channel: grpc.aio.Channel, timeout_s: float, who: Credentials) -> str:
        request = rpc_pb2.AuthenticateRequest(name=who.user, password=who.password)
        try:
            answer = await rpc_pb2_grpc.AuthStub(channel).Authenticate(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return ""  # this etcd has authentication switched off
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise KvRefused("authenticate", f"user {who.user}", describe(error)) from error
            raise
        return answer.token


def needs_token(error: grpc.aio.AioRpcError) -> bool:
    """Whether etcd refused because the token is missing, expired or older than a change of users."""
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or (
        error.code() is grpc.StatusCode.INVALID_ARGUMENT
        and ("user name is empty" in details or AUTH_CHANGED in details)
    )


def final_error(operation: str, key: str, error: grpc.aio.AioRpcError) -> KvError | None:
    """What ``error`` means if another attempt cannot help, else None."""
    details = describe(error)
    if error.code() is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(operation, key, details)
    if error.code() is grpc.StatusCode.OUT_OF_RANGE and "future revision" in details:
        return StoreReplaced(operation, key, "the store is older than what was read of it before")
    if AUTH_CHANGED in details:
        return None
    if error.code() is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseLost(operation, key, details)
    if error.code() in FINAL_CODES or too_large(error):
        return KvRefused(operation, key, details)
    return None


def too_large(error: grpc.aio.AioRpcError) -> bool:
    """Whether the answer exceeded our own receive limit: repeating the same request meets it again."""
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or "")


def describe(error: grpc.aio.AioRpcError) -> str:
    """etcd's text with the name of the code, on one line."""
    return f"{error.code().name}: {(error.details() or 'no details').splitlines()[0]}"

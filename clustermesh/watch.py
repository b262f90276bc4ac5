"""A watch that survives its connection: every change once and in order, or an error that says why not.

etcd sends the changes of one revision together (fragments of it are put together here), so the position is
always a revision that was delivered whole, and a new stream begins right behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc.aio

from clustermesh.call import Caller, Metadata, describe, final_error, needs_token, too_large
from clustermesh.errors import Compacted, KvRefused, KvUnavailable
from clustermesh.etcdapi.etcdserverpb import rpc_pb2, rpc_pb2_grpc
from clustermesh.etcdapi.mvccpb import kv_pb2

CREATE_TIMEOUT_S = 5.0
PAUSE_FIRST_S, PAUSE_LAST_S = 0.05, 0.5

_REQUIRE_LEADER = (("hasleader", "true"),)
"""Ends the stream when the member loses its leader, instead of going silent."""


@dataclass(frozen=True, slots=True)
class Change:
    """One key put (``value``) or deleted (``value`` None) at store revision ``revision``."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """All changes up to and including ``revision``.

    Empty when the watch was (re)established or is merely quiet.
    """

    revision: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The connection is gone; the watch goes on by itself and the next Batch says that it is back."""

    reason: str


async def watch(
    caller: Caller, key: bytes, range_end: bytes, after: int
) -> AsyncGenerator[Batch | Interrupted, None]:
    """Every change after store revision ``after``, once and in order, across reconnects, without end.

    Raises:
        Compacted: changes after the last Batch are lost to compaction or too large to receive; list again.
        StoreReplaced: another etcd or an emptied one answers.
        KvRefused: etcd does not allow this watch.
    """
    position, pause_s, told, fresh_token = after + 1, PAUSE_FIRST_S, False, False
    while True:
        connection = caller.connection
        try:
            with connection.use() as channel:
                async with aclosing(_stream(caller, channel, key, range_end, position)) as batches:
                    async for batch in batches:
                        position = max(position, batch.revision + 1)
                        pause_s, told, fresh_token = PAUSE_FIRST_S, False, False
                        yield batch
            reason = "stream ended"
        except grpc.aio.AioRpcError as error:
            if too_large(error):
                raise Compacted("watch", _text(key), "a change is larger than the receive limit") from error
            denied = error.code() is grpc.StatusCode.PERMISSION_DENIED
            if (needs_token(error) or denied) and not fresh_token and caller.forget_token():
                fresh_token = True
                continue
            final = final_error("watch", _text(key), error)
            if final is not None:
                raise final from error
            reason = describe(error)
        except _Denied as error:
            # etcd 3.4 words an expired token of a watch as a missing permission.
            if fresh_token or not caller.forget_token():
                raise KvRefused("watch", _text(key), error.reason) from error
            fresh_token = True
            continue
        except (_Cancelled, TimeoutError, OSError, KvUnavailable) as error:
            reason = str(error) or "no answer in time"
        if not told:
            told = True
            yield Interrupted(reason)
        caller.rotate(connection)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, PAUSE_LAST_S)


class _Cancelled(Exception):
    """The server ended this watch for a passing reason."""


class _Denied(Exception):
    """The server refused this watch."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


async def _stream(
    caller: Caller, channel: grpc.aio.Channel, key: bytes, range_end: bytes, position: int
) -> AsyncGenerator[Batch, None]:
    """The batches of one stream; the first is empty and says that the watch stands."""
    async with asyncio.timeout(CREATE_TIMEOUT_S):
        metadata = await caller.metadata(channel, CREATE_TIMEOUT_S)
        stub = rpc_pb2_grpc.WatchStub(channel)
        stream = stub.Watch(metadata=metadata + _REQUIRE_LEADER)
        create = rpc_pb2.WatchCreateRequest(
            key=key, range_end=range_end, start_revision=position, progress_notify=True, fragment=True
        )
        try:
            await stream.write(rpc_pb2.WatchRequest(create_request=create))
            first = _response(await stream.read())
        except BaseException:
            stream.cancel()
            raise
    try:
        _check(caller, key, first)
        if position > 1 and first.header.revision != position - 1:
            await _check_past(caller, key, position - 1)
        yield Batch(position - 1, ())
        parts: list[kv_pb2.Event] = []
        while True:
            response = _response(await stream.read())
            _check(caller, key, response)
            parts.extend(event for event in response.events if event.kv.mod_revision >= position)
            if response.fragment:
                continue
            # A quiet watch learns from progress messages how far it is; both cases are complete up to here.
            reached = parts[-1].kv.mod_revision if parts else response.header.revision
            yield Batch(reached, tuple(map(_change, parts)))
            position, parts = max(position, reached + 1), []
    finally:
        stream.cancel()


def _response(answer: object) -> rpc_pb2.WatchResponse:
    if not isinstance(answer, rpc_pb2.WatchResponse):  # grpc's end-of-stream mark
        raise _Cancelled("stream ended")
    return answer


def _check(caller: Caller, key: bytes, response: rpc_pb2.WatchResponse) -> None:
    if response.header.cluster_id:
        caller.check_pin("watch", response.header)
    if response.compact_revision:
        reason = f"compacted up to revision {response.compact_revision}"
        raise Compacted("watch", _text(key), reason)
    if response.canceled:
        if "permission denied" in response.cancel_reason or "auth" in response.cancel_reason:
            raise _Denied(response.cancel_reason)
        raise _Cancelled(response.cancel_reason or "cancelled by the server")


async def _check_past(caller: Caller, key: bytes, revision: int) -> None:
    """Raise unless the store still knows ``revision``, the last one delivered.

    etcd says only after it has accepted a watch that the past was compacted, and never that it has lost it:
    a watch from a revision to come just waits. A read at that revision tells both, and a lagging member
    from an emptied store.
    """

    async def invoke(
        channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
    ) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(key=key, revision=revision, count_only=True)
        return await rpc_pb2_grpc.KVStub(channel).Range(request, timeout=timeout_s, metadata=metadata)

    await caller.call("watch", _text(key), invoke)


def _change(event: kv_pb2.Event) -> Change:
    value = event.kv.value if event.type == kv_pb2.Event.PUT else None
    return Change(_text(event.kv.key), value, event.kv.mod_revision)


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")

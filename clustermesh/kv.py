"""The one etcd adapter: keys in, values out, on whichever member answers. Nothing else in this package
speaks to etcd.

Written on grpc.aio because no maintained asyncio client has TLS, keepalives, reconnects and a watch that
neither skips nor repeats. See call.py for what is repeated and lease.py, watch.py for the two long-lived
things.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NoReturn, Self

import grpc.aio

from clustermesh import lease as leases
from clustermesh import watch as watches
from clustermesh.call import Caller, Credentials, KvOptions, Metadata
from clustermesh.channel import Endpoint, TlsFiles
from clustermesh.errors import Compacted, KvRefused
from clustermesh.etcdapi.etcdserverpb import rpc_pb2, rpc_pb2_grpc
from clustermesh.keys import prefix_end
from clustermesh.lease import Lease
from clustermesh.operations import (
    Compare,
    KeyValue,
    Listing,
    Operation,
    TxnResult,
    compare_to_wire,
    found_from_wire,
    key_value_from_wire,
    operation_to_wire,
)

LIST_RESTARTS = 5
"""How often a list begins again because compaction overtook it."""


class Kv:
    """One etcd (all its members). Use as ``async with``; every method may be called from several tasks.

    Errors of all methods: KvUnavailable when no member answered in time, KvRefused when etcd said no,
    StoreReplaced when another etcd cluster answers than the one that answered first.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        credentials: Credentials | None = None,
        tls: TlsFiles | None = None,
        options: KvOptions | None = None,
    ) -> None:
        self._options = options or KvOptions()
        self._caller = Caller(endpoints, credentials, tls, self._options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls and watches under way end."""
        await self._caller.close()

    @property
    def cluster_id(self) -> int | None:
        """The etcd cluster that answered first; later answers of another one raise StoreReplaced."""
        return self._caller.cluster_id

    def unpin(self) -> None:
        """Accept whichever etcd cluster answers next, for users to whom a new store is just an empty one."""
        self._caller.cluster_id = None

    async def get(self, key: str) -> KeyValue | None:
        """The newest committed value of ``key``, None if there is none."""
        answer = await self._range(rpc_pb2.RangeRequest(key=key.encode()))
        return key_value_from_wire(answer.kvs[0]) if answer.kvs else None

    async def find(self, key: str) -> Listing:
        """``key`` alone as a listing (no or one item), so that a watch can begin right behind it."""
        answer = await self._range(rpc_pb2.RangeRequest(key=key.encode()))
        return Listing(answer.header.revision, tuple(map(key_value_from_wire, answer.kvs)))

    async def list(self, prefix: str) -> Listing:
        """Everything under ``prefix`` at one revision, read in pages.

        Raises Compacted when compaction overtook the list five times in a row.
        """
        for _ in range(LIST_RESTARTS):
            try:
                return await self._list_once(prefix)
            except Compacted as error:
                compacted = error
        raise compacted

    async def get_at(self, key: str, revision: int) -> KeyValue | None:
        """``key`` as it was at ``revision``; Compacted when that past is gone."""
        answer = await self._range(rpc_pb2.RangeRequest(key=key.encode(), revision=revision))
        return key_value_from_wire(answer.kvs[0]) if answer.kvs else None

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> int:
        """Write; the store revision it got. It may happen twice when an answer was lost.

        Raises LeaseLost when ``lease`` is gone.
        """
        request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease.id if lease else 0)

        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.PutResponse:
            return await rpc_pb2_grpc.KVStub(channel).Put(request, timeout=timeout_s, metadata=metadata)

        return (await self._caller.call("put", key, invoke)).header.revision

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        """Delete ``key`` or everything under it; how many were there when the answering attempt ran."""
        raw = key.encode()
        request = rpc_pb2.DeleteRangeRequest(key=raw, range_end=prefix_end(raw) if prefix else b"")

        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.DeleteRangeResponse:
            return await rpc_pb2_grpc.KVStub(channel).DeleteRange(
                request, timeout=timeout_s, metadata=metadata
            )

        return (await self._caller.call("delete", key, invoke)).deleted

    async def txn(
        self,
        compare: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        repeatable: bool = False,
    ) -> TxnResult:
        """Do ``success`` if all of ``compare`` holds, else ``failure``, as one step (at most 128 operations
        each).

        ``repeatable``: the caller can live with a second run after a lost answer; else it is sent at most
        once.
        """
        request = rpc_pb2.TxnRequest(
            compare=[compare_to_wire(condition) for condition in compare],
            success=[operation_to_wire(operation) for operation in success],
            failure=[operation_to_wire(operation) for operation in failure],
        )

        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.TxnResponse:
            return await rpc_pb2_grpc.KVStub(channel).Txn(request, timeout=timeout_s, metadata=metadata)

        key = compare[0].key if compare else ""
        answer = await self._caller.call("transaction", key, invoke, repeatable=repeatable)
        return TxnResult(
            answer.succeeded, answer.header.revision, tuple(map(found_from_wire, answer.responses))
        )

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease; give it 15 s or more where a change of etcd's leader must not end it."""
        return await leases.grant(self._caller, ttl_s)

    async def renew(self, lease: Lease) -> None:
        """Renew ``lease`` once; LeaseLost when etcd does not know it any more."""
        await leases.renew(self._caller, lease)

    async def lease_left(self, lease_id: int) -> tuple[int, int]:
        """Seconds that are left of a lease, whoever has it, and those it was granted; (-1, 0): it is gone."""
        return await leases.left(self._caller, lease_id)

    async def keep(self, lease: Lease) -> NoReturn:
        """Keep ``lease`` alive until cancelled.

        LeaseLost when it is gone or was not renewed for its whole time.
        """
        await leases.keep(self._caller, lease)

    async def revoke(self, lease: Lease) -> None:
        """Give ``lease`` up at once, with all its keys."""
        await leases.revoke(self._caller, lease)

    def watch(
        self, key: str, *, after: int, prefix: bool = True
    ) -> AsyncGenerator[watches.Batch | watches.Interrupted, None]:
        """Every change under ``key`` (or of it alone) after revision ``after``; see watch.watch.

        Close with aclosing.
        """
        raw = key.encode()
        return watches.watch(self._caller, raw, prefix_end(raw) if prefix else b"", after)

    async def compact(self, revision: int) -> None:
        """Drop history before ``revision``; watches that are behind it get Compacted."""
        request = rpc_pb2.CompactionRequest(revision=revision, physical=True)

        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.CompactionResponse:
            return await rpc_pb2_grpc.KVStub(channel).Compact(request, timeout=timeout_s, metadata=metadata)

        await self._caller.call("compact", "", invoke)

    async def version(self) -> str:
        """Version of the member that answers."""

        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.StatusResponse:
            stub = rpc_pb2_grpc.MaintenanceStub(channel)
            return await stub.Status(rpc_pb2.StatusRequest(), timeout=timeout_s, metadata=metadata)

        return (await self._caller.call("status", "", invoke)).version

    async def _range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        async def invoke(
            channel: grpc.aio.Channel, metadata: Metadata, timeout_s: float
        ) -> rpc_pb2.RangeResponse:
            return await rpc_pb2_grpc.KVStub(channel).Range(request, timeout=timeout_s, metadata=metadata)

        return await self._caller.call("get", request.key.decode("utf-8", "backslashreplace"), invoke)

    async def _list_once(self, prefix: str) -> Listing:
        start, end = prefix.encode(), prefix_end(prefix.encode())
        limit, revision, items = self._options.page_keys, 0, list[KeyValue]()
        while True:
            request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
            try:
                answer = await self._range(request)
            except KvRefused as error:
                if "larger than max" not in error.reason:
                    raise
                if limit > 1:
                    limit = max(1, limit // 8)
                    continue
                # One value that cannot be received: name it and step over it.
                request.keys_only = True
                answer = await self._range(request)
            items.extend(key_value_from_wire(kv, left_out=request.keys_only) for kv in answer.kvs)
            revision = revision or answer.header.revision
            if not answer.more:
                return Listing(revision, tuple(items))
            start = answer.kvs[-1].key + b"\0"

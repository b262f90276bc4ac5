"""meshd.v1.ShortCircuitService: who talks from socket to socket, and the switch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from meshd.api.v1 import short_circuit_pb2, short_circuit_pb2_grpc
from meshd.model import Address, format_address
from meshd.servers.control.callers import Context, current_caller
from meshd.servers.control.outcome import time_left
from meshd.servers.control.pages import Name, messages, page
from meshd.servers.short_circuit import Connection, End, Pair, Sent, ShortCircuit

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShortCircuits(short_circuit_pb2_grpc.ShortCircuitServiceServicer):
    """Of this node."""

    shown: ShortCircuit

    async def GetShortCircuit(
        self, request: short_circuit_pb2.GetShortCircuitRequest, context: Context
    ) -> short_circuit_pb2.GetShortCircuitResponse:
        state = await self.shown.state()
        return short_circuit_pb2.GetShortCircuitResponse(
            on=state.on,
            reasons=state.reasons,
            node_on=state.node_on,
            cluster_on=state.cluster_on,
            selected=state.selected,
            connections=state.connections,
            leaving=state.leaving,
            excluded=[
                short_circuit_pb2.ExcludedWorkload(workload=one.workload, what=one.what, process=one.process)
                for one in state.excluded
            ],
            outcomes=state.outcomes,
            sent=_sent(state.sent),
        )

    async def ListShortCircuits(
        self, request: short_circuit_pb2.ListShortCircuitsRequest, context: Context
    ) -> short_circuit_pb2.ListShortCircuitsResponse:
        names = [(key.hex(),) for key in await self.shown.keys()]
        wanted, token = await page(names, request.page_size, request.page_token)

        def made(name: Name) -> Iterable[short_circuit_pb2.ShortCircuit]:
            found = self.shown.connection(bytes.fromhex(name[0]))
            if found is None:
                return ()
            if request.workload not in {"", found.first.workload, found.second.workload}:
                return ()
            return (_connection(found),)

        found, _ = await messages(wanted, made)
        return short_circuit_pb2.ListShortCircuitsResponse(connections=found, next_page_token=token)

    async def ListShortCircuitPairs(
        self, request: short_circuit_pb2.ListShortCircuitPairsRequest, context: Context
    ) -> short_circuit_pb2.ListShortCircuitPairsResponse:
        names = [(first.hex(), second.hex()) for first, second in await self.shown.pairs()]
        wanted, token = await page(names, request.page_size, request.page_token)

        def made(name: Name) -> Iterable[short_circuit_pb2.ShortCircuitPair]:
            first, second = (Address(bytes.fromhex(part)) for part in name)
            found = self.shown.pair((first, second))
            return () if found is None else (_pair(found),)

        found, _ = await messages(wanted, made)
        return short_circuit_pb2.ListShortCircuitPairsResponse(pairs=found, next_page_token=token)

    async def SwitchShortCircuit(
        self, request: short_circuit_pb2.SwitchShortCircuitRequest, context: Context
    ) -> short_circuit_pb2.SwitchShortCircuitResponse:
        caller = current_caller()
        log.info(
            "short circuit is to be switched",
            on=request.on,
            of="cluster" if request.cluster else "node",
            caller=caller.name,
            role=caller.role.name.lower(),
        )
        answer = short_circuit_pb2.SwitchShortCircuitResponse()
        if request.cluster:
            agreed = await self.shown.turn_cluster(on=request.on, patience_s=time_left(context))
            for word in agreed.words:
                answer.nodes.add(node=word.node, on=word.on, reason=word.reason)
            answer.missing.extend(agreed.missing)
            answer.superseded = agreed.superseded
        else:
            await self.shown.turn(on=request.on)
        state = await self.shown.state()
        answer.on = state.on
        answer.reasons.extend(state.reasons)
        return answer


def _connection(one: Connection) -> short_circuit_pb2.ShortCircuit:
    since = Timestamp()
    since.FromNanoseconds(int(one.since_s * 1e9))
    return short_circuit_pb2.ShortCircuit(
        first=_end(one.first),
        second=_end(one.second),
        since=since,
        joining=one.joining,
        leaves=one.leaves,
    )


def _pair(one: Pair) -> short_circuit_pb2.ShortCircuitPair:
    return short_circuit_pb2.ShortCircuitPair(
        first=_end(one.first), second=_end(one.second), open=one.open, closed=one.closed
    )


def _end(one: End) -> short_circuit_pb2.ShortCircuitEnd:
    return short_circuit_pb2.ShortCircuitEnd(
        address=format_address(one.address), port=one.port, workload=one.workload, sent=_sent(one.sent)
    )


def _sent(one: Sent) -> short_circuit_pb2.SentBytes:
    return short_circuit_pb2.SentBytes(
        bytes=one.bytes,
        messages=one.messages,
        tcp_bytes=one.tcp_bytes,
        tcp_messages=one.tcp_messages,
        causes=one.causes,
    )

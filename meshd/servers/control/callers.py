"""Who calls, and what he may: roles by certificate name over TCP, everything for who may open the Unix socket.

Every call passes :class:`Gate`: it refuses what the role does not permit, translates our errors to gRPC's, and ends streams
that nobody reads, so that the services themselves contain none of this.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog

from meshd.config import Role as RoleNames
from meshd.errors import MeshError, NotAllowed, ReaderTooSlow
from meshd.servers.control.unix_callers import caller_name
from meshd.servers.errors import answer

log = structlog.get_logger(__name__)

# For the status of a call whose reader does not read.
FAREWELL_S = 0.5

Context = grpc.aio.ServicerContext[Any, Any]  # Any: every service has its own messages
Handler: TypeAlias = (
    "grpc.RpcMethodHandler[Any, Any]"  # Any: as above; a string: it is generic in its stubs only
)


class Role(IntEnum):
    """Each may do what those before it may."""

    NONE = 0
    READ = 1
    OPERATE = 2
    ADMIN = 3


# What a method needs. One that is not named here needs ADMIN, so a new one is closed until somebody decides.
NEEDS = {
    "/meshd.v1.StatusService/GetStatus": Role.READ,
    "/meshd.v1.StatusService/GetVersion": Role.READ,
    "/meshd.v1.StatusService/GetConfig": Role.ADMIN,
    "/meshd.v1.ServiceService/GetService": Role.READ,
    "/meshd.v1.ServiceService/ListServices": Role.READ,
    "/meshd.v1.ServiceService/WatchServices": Role.READ,
    "/meshd.v1.ServiceService/ApplyService": Role.OPERATE,
    "/meshd.v1.ServiceService/DeleteService": Role.OPERATE,
    "/meshd.v1.BackendService/GetBackend": Role.READ,
    "/meshd.v1.BackendService/ListBackends": Role.READ,
    "/meshd.v1.BackendService/WatchBackends": Role.READ,
    "/meshd.v1.BackendService/ApplyBackend": Role.OPERATE,
    "/meshd.v1.BackendService/DeleteBackend": Role.OPERATE,
    "/meshd.v1.NodeService/GetNode": Role.READ,
    "/meshd.v1.NodeService/ListNodes": Role.READ,
    "/meshd.v1.NodeService/WatchNodes": Role.READ,
    "/meshd.v1.NodeService/DeleteNode": Role.OPERATE,
    "/meshd.v1.ClusterService/GetCluster": Role.READ,
    "/meshd.v1.ClusterService/ListClusters": Role.READ,
    "/meshd.v1.ClusterService/WatchClusters": Role.READ,
    "/meshd.v1.ClusterService/ConfirmRemovals": Role.OPERATE,
    "/meshd.v1.ClusterService/RelearnPin": Role.OPERATE,
    "/meshd.v1.MapService/ListMaps": Role.READ,
    "/meshd.v1.MetricsService/ListDrops": Role.READ,
    "/meshd.v1.FailoverService/PlanFailover": Role.READ,
    "/meshd.v1.FailoverService/ListFailovers": Role.READ,
    "/meshd.v1.FailoverService/StartDrill": Role.OPERATE,
    "/meshd.v1.FailoverService/StopDrill": Role.OPERATE,
    "/meshd.v1.ShortCircuitService/GetShortCircuit": Role.READ,
    "/meshd.v1.ShortCircuitService/ListShortCircuits": Role.READ,
    "/meshd.v1.ShortCircuitService/ListShortCircuitPairs": Role.READ,
    "/meshd.v1.ShortCircuitService/SwitchShortCircuit": Role.OPERATE,
    # Maps tell who talks to whom, and a dump costs CPU.
    "/meshd.v1.MapService/DumpMap": Role.OPERATE,
    "/grpc.health.v1.Health/Check": Role.READ,
    "/grpc.health.v1.Health/Watch": Role.READ,
    "/grpc.health.v1.Health/List": Role.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READ,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Role.READ,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """``name``: user and process at the other end of the Unix socket, or the certificate's name."""

    name: str
    role: Role


# Of the call that this task answers.
CALLER: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who made the call that is being answered."""
    return CALLER.get()


def caller_of(context: Context, names: RoleNames) -> Caller:
    """Who is at the other end of the connection."""
    local = caller_name(context.peer())
    if local is not None:
        return Caller(local, Role.ADMIN)
    identity = context.auth_context()
    common = [value.decode(errors="replace") for value in identity.get("x509_common_name", ())]
    dns = [value.decode(errors="replace") for value in identity.get("peer_dns", ())]
    return Caller(next(iter(common + dns), "nobody"), role_of(common, dns, names))


def role_of(common: list[str], dns: list[str], names: RoleNames) -> Role:
    """The strongest role that a certificate with these names has.

    A name counts if it is listed; a DNS name also if what is listed is ``*.`` and its end.
    """

    def listed(patterns: tuple[str, ...]) -> bool:
        return any(
            pattern in common
            or pattern in dns
            or (pattern.startswith("*.") and any(name.endswith(pattern[1:]) for name in dns))
            for pattern in patterns
        )

    by_strength = ((Role.ADMIN, names.admin), (Role.OPERATE, names.operate), (Role.READ, names.read))
    return next((role for role, patterns in by_strength if listed(patterns)), Role.NONE)


class Gate(grpc.aio.ServerInterceptor):
    """Stands before every method of the server."""

    def __init__(self, names: RoleNames, patience_s: float) -> None:
        self._names = names
        self._patience_s = patience_s
        # Streams that are being answered now.
        self.streams = 0
        # Readers that were too slow, since the start.
        self.cut_off = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, behind the gate. Who calls is known only once it runs."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._guard_answer(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_stream is None:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._guard_stream(method, handler.stream_stream),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _guard_answer(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded(request: object, context: Context) -> object:
            try:
                self._admit(method, context)
                return await inner(request, context)
            except MeshError as error:
                await refuse(context, error)

        return guarded

    def _guard_stream(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded(request: object, context: Context) -> None:
            self.streams += 1
            try:
                self._admit(method, context)
                # Both kinds that gRPC knows: a generator of answers, or a coroutine that writes them itself.
                if inspect.isasyncgenfunction(inner):
                    await self._write_all(inner(request, context), context)
                else:
                    await inner(request, context)
            except ReaderTooSlow as error:
                log.warning("reader cut off", method=method, seconds=error.seconds)
                self.cut_off += 1
                # The answer stands behind what is not read. gRPC keeps it for the reader, we do not wait for him.
                with suppress(TimeoutError):
                    async with asyncio.timeout(FAREWELL_S):
                        await refuse(context, error)
            except MeshError as error:
                await refuse(context, error)
            finally:
                self.streams -= 1

        return guarded

    async def _write_all(self, answers: AsyncGenerator[object, None], context: Context) -> None:
        async with aclosing(answers):
            async for answered in answers:
                try:
                    async with asyncio.timeout(self._patience_s):
                        await context.write(answered)
                except TimeoutError:
                    raise ReaderTooSlow(self._patience_s) from None

    def _admit(self, method: str, context: Context) -> None:
        needed = NEEDS.get(method, Role.ADMIN)
        caller = caller_of(context, self._names)
        if caller.role < needed:
            log.warning("call refused", caller=caller.name, method=method, needs=needed.name.lower())
            raise NotAllowed(caller.name, method, needed.name.lower())
        CALLER.set(caller)


async def refuse(context: Context, error: MeshError) -> NoReturn:
    """End the call with what ``error`` says."""
    found = answer(error)
    await context.abort(found.code, found.message, trailing_metadata=found.trailers)

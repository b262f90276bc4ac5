"""``meshctl short-circuit``: who talks from socket to socket, and the switch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import grpc

from meshd.api.v1 import short_circuit_pb2
from meshd.api.v1.short_circuit_pb2_grpc import ShortCircuitServiceStub
from meshd.ctl.columns import endpoint
from meshd.ctl.connection import connected
from meshd.ctl.lists import pages
from meshd.ctl.output import Column, age, as_dict, print_table, show, show_object, size

Row = TypeVar("Row", short_circuit_pb2.ShortCircuit, short_circuit_pb2.ShortCircuitPair)


def end(one: short_circuit_pb2.ShortCircuitEnd) -> str:
    """``default/web 10.1.0.5:80``."""
    place = endpoint(one.address, one.port) if one.port else one.address
    return f"{one.workload} {place}" if one.workload else place


def handed_over(one: short_circuit_pb2.SentBytes) -> str:
    """Bytes and messages from socket to socket."""
    return f"{size(one.bytes)}/{one.messages}"


def on_tcp(one: short_circuit_pb2.SentBytes) -> str:
    """The same on TCP."""
    return f"{size(one.tcp_bytes)}/{one.tcp_messages}"


def causes(found: Mapping[str, int]) -> str:
    """Why messages went on TCP, the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return ",".join(f"{name}={count}" for name, count in ordered) or "-"


def both(cell: Callable[[short_circuit_pb2.SentBytes], str]) -> Callable[[Row], str]:
    """What the first sent, and the second."""
    return lambda one: f"{cell(one.first.sent)} -> <- {cell(one.second.sent)}"


def state(one: short_circuit_pb2.ShortCircuit) -> str:
    """How far it is."""
    return f"leaving: {one.leaves}" if one.leaves else "joining" if one.joining else "handing over"


CONNECTIONS: tuple[Column[short_circuit_pb2.ShortCircuit], ...] = (
    Column("FIRST", lambda one: end(one.first)),
    Column("SECOND", lambda one: end(one.second)),
    Column("HANDED OVER", both(handed_over)),
    Column("ON TCP", both(on_tcp)),
    Column("SINCE", lambda one: age(one.since.seconds, time.time())),
    Column("STATE", state),
    Column("WHY ON TCP", both(lambda one: causes(one.causes)), wide=True),
)

PAIRS: tuple[Column[short_circuit_pb2.ShortCircuitPair], ...] = (
    Column("FIRST", lambda one: end(one.first)),
    Column("SECOND", lambda one: end(one.second)),
    Column("OPEN", lambda one: str(one.open)),
    Column("CLOSED", lambda one: str(one.closed)),
    Column("HANDED OVER", both(handed_over)),
    Column("ON TCP", both(on_tcp)),
    Column("WHY ON TCP", both(lambda one: causes(one.causes)), wide=True),
)


def status(options: argparse.Namespace) -> int:
    """``short-circuit status``"""
    with connected(options) as channel:
        answer = get_status(channel, options.timeout)
    if options.output in {"json", "yaml"}:
        show_object(as_dict(answer), options.output)
        return 0
    print_switch(on=answer.on, reasons=answer.reasons)
    print(
        f"{answer.selected} addresses are selected; {answer.connections} connections, {answer.leaving} of them leaving; "
        f"handed over {handed_over(answer.sent)}, on TCP {on_tcp(answer.sent)} (bytes/messages)"
    )
    for one in answer.excluded:
        print(
            f"! {one.workload or 'a workload that is gone'} stays on TCP: its process {one.process} {one.what}"
        )
    for title, counts in (("OUTCOME", answer.outcomes), ("WHY ON TCP", answer.sent.causes)):
        if counts:
            print()
            rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            print_table([title, "COUNT"], [[name, str(count)] for name, count in rows])
    return 0


def connections(options: argparse.Namespace) -> int:
    """``short-circuit list``"""
    namespace, _, name = options.workload.rpartition("/")
    workload = f"{namespace or options.namespace}/{name}" if name else ""
    with connected(options) as channel:
        found = all_connections(channel, options.timeout, workload)
    show("connections", found, CONNECTIONS, options.output)
    return 0


def pairs(options: argparse.Namespace) -> int:
    """``short-circuit pairs``"""
    with connected(options) as channel:
        stub = ShortCircuitServiceStub(channel)

        def page(token: str) -> short_circuit_pb2.ListShortCircuitPairsResponse:
            request = short_circuit_pb2.ListShortCircuitPairsRequest(page_token=token)
            return stub.ListShortCircuitPairs(request, timeout=options.timeout)

        found = [one for answer in pages(page) for one in answer.pairs]
    show("pairs", found, PAIRS, options.output)
    return 0


def on(options: argparse.Namespace) -> int:
    """``short-circuit on``"""
    return switch(options, on=True)


def off(options: argparse.Namespace) -> int:
    """``short-circuit off``"""
    return switch(options, on=False)


def switch(options: argparse.Namespace, *, on: bool) -> int:
    """1 if a node has not given its word, or hands messages over although it shall not."""
    with connected(options) as channel:
        request = short_circuit_pb2.SwitchShortCircuitRequest(on=on, cluster=options.cluster)
        answer = ShortCircuitServiceStub(channel).SwitchShortCircuit(request, timeout=options.timeout)
    if options.output in {"json", "yaml"}:
        show_object(as_dict(answer), options.output)
    elif options.cluster:
        print_nodes(answer)
    else:
        print_switch(on=answer.on, reasons=answer.reasons)
    disobedient = [one for one in answer.nodes if one.on and not on]
    return 1 if answer.missing or answer.superseded or disobedient or (answer.on and not on) else 0


def print_switch(*, on: bool, reasons: Iterable[str]) -> None:
    """How it is on this node."""
    print(f"short circuit: {'on' if on else 'off: ' + '; '.join(reasons)}")


def print_nodes(answer: short_circuit_pb2.SwitchShortCircuitResponse) -> None:
    """What each node says, and who says nothing."""
    rows = [[one.node, "on" if one.on else "off", one.reason or "-"] for one in answer.nodes]
    rows += [[name, "unreachable", "has not given its word"] for name in answer.missing]
    print_table(["NODE", "SHORT CIRCUIT", "REASON"], rows)
    if answer.superseded:
        print("! somebody switched the cluster again meanwhile: that is in force")


def get_status(channel: grpc.Channel, timeout_s: float) -> short_circuit_pb2.GetShortCircuitResponse:
    """Whether it is on, and all that is counted."""
    request = short_circuit_pb2.GetShortCircuitRequest()
    return ShortCircuitServiceStub(channel).GetShortCircuit(request, timeout=timeout_s)


def all_connections(
    channel: grpc.Channel, timeout_s: float, workload: str = ""
) -> list[short_circuit_pb2.ShortCircuit]:
    """Every connection, from all pages."""
    stub = ShortCircuitServiceStub(channel)

    def page(token: str) -> short_circuit_pb2.ListShortCircuitsResponse:
        request = short_circuit_pb2.ListShortCircuitsRequest(workload=workload, page_token=token)
        return stub.ListShortCircuits(request, timeout=timeout_s)

    return [one for answer in pages(page) for one in answer.connections]

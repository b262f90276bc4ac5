"""``meshctl failover``: who would take over, and who did."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import grpc

from meshd.api.v1 import failover_pb2
from meshd.api.v1.failover_pb2_grpc import FailoverServiceStub
from meshd.ctl.columns import endpoint, word
from meshd.ctl.connection import connected
from meshd.ctl.lists import pages
from meshd.ctl.output import Column, as_dict, print_table, show, show_object

TITLES = ("SERVICE", "CLUSTER", "SHARE", "BACKENDS", "EACH", "HEADROOM")


def history(options: argparse.Namespace) -> int:
    """``failover history``"""
    with connected(options) as channel:
        request = failover_pb2.ListFailoversRequest()
        found = FailoverServiceStub(channel).ListFailovers(request, timeout=options.timeout).failovers
    if not found and options.output == "table":
        print("no failovers are remembered on this node")
        return 0
    show("failovers", found, HISTORY, options.output)
    return 0


def lost(one: failover_pb2.Failover) -> str:
    """The cluster, and which of its nodes; of many the first."""
    if not one.nodes:
        return one.cluster
    return f"{one.cluster}/{one.nodes[0]}{f' +{len(one.nodes) - 1}' if len(one.nodes) > 1 else ''}"


def moved(one: failover_pb2.Failover) -> str:
    """The services; of many the first."""
    if not one.moves:
        return "-"
    first = one.moves[0]
    return f"{first.namespace}/{first.service}{f' +{one.moved - 1}' if one.moved > 1 else ''}"


def taken_over(one: failover_pb2.Failover) -> str:
    """The clusters that have more since."""
    if not one.moves:
        return "-"
    grown = {
        name
        for move in one.moves
        for name, share in move.after.items()
        if share > move.before.get(name, 0.0) + LEAST_SHARE
    }
    return ",".join(sorted(grown)) or "nobody"


def shifted(one: failover_pb2.Failover) -> str:
    """The shares of the first service, before and after."""
    return f"{shares(one.moves[0].before)} -> {shares(one.moves[0].after)}" if one.moves else "-"


def shares(found: Mapping[str, float]) -> str:
    """``cm-1=67%,cm-2=33%``."""
    return ",".join(f"{name}={share:.0%}" for name, share in sorted(found.items())) or "nobody"


def duration(one: failover_pb2.Failover) -> str:
    """For how long it went on."""
    if not one.HasField("ended"):
        return "goes on"
    return f"{(one.ended.ToNanoseconds() - one.found.ToNanoseconds()) / 1e9:.0f}s"


def milliseconds(seconds: float, *, known: bool) -> str:
    """``612 ms``"""
    return f"{seconds * 1000:.0f} ms" if known else "-"


def last_connection(one: failover_pb2.Failover) -> str:
    """``2026-03-01T12:00:00.612Z``"""
    if not one.HasField("last_connection"):
        return "-"
    milliseconds = one.last_connection.nanos // 1_000_000
    return f"{datetime.fromtimestamp(one.last_connection.seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"


def moment(one: failover_pb2.Failover) -> str:
    """``2026-03-01T12:00:00Z``"""
    return f"{datetime.fromtimestamp(one.found.seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


# Shares are sums of floats.
LEAST_SHARE = 1e-6

HISTORY: tuple[Column[failover_pb2.Failover], ...] = (
    Column("FOUND", moment),
    Column("LOST", lost),
    Column("CAUSE", lambda one: word(failover_pb2.FailoverCause.Name(one.cause), "FAILOVER_CAUSE_")),
    Column(
        "DETECTION", lambda one: milliseconds(one.detection_seconds, known=one.HasField("detection_seconds"))
    ),
    Column("SWITCH", lambda one: milliseconds(one.switch_seconds, known=one.HasField("switch_seconds"))),
    Column("SERVICES", moved),
    Column("TAKEN OVER BY", taken_over),
    Column("LEFT OPEN", lambda one: str(one.connections) if one.HasField("connections") else "-"),
    Column("LAST CONNECTION", last_connection),
    Column("UNANSWERED", lambda one: str(one.unanswered) if one.HasField("unanswered") else "-"),
    Column("LASTED", duration),
    Column("SHARES", shifted, wide=True),
)


def plan(options: argparse.Namespace) -> int:
    """``failover plan``"""
    with connected(options) as channel:
        found = all_plans(channel, options)
    if options.output in {"json", "yaml"}:
        show_object({"plans": [as_dict(one) for one in found]}, options.output)
        return 0
    lost = f"{options.lose}{options.node and f', node {options.node}'}{options.zone and f', zone {options.zone}'}"
    if not found:
        print(f"without {lost}: no service has a backend there, so nothing changes")
        return 0
    print_table(TITLES, [row for one in found for row in rows(one, found)])
    services = {(one.namespace, one.service) for one in found}
    without = sorted({(one.namespace, one.service) for one in found if one.nothing_left})
    print(
        f"\nwithout {lost}: services that lose backends: {len(services)}, left with nothing: {len(without)}"
    )
    for one in without:
        print(f"! service {'/'.join(one)} has no other backend that serves")
    return 0


def rows(
    one: failover_pb2.FailoverPlan, all_of_them: Iterable[failover_pb2.FailoverPlan]
) -> Iterator[list[str]]:
    """A line for each cluster; the service is named once, with its frontends where they do not all fare alike."""
    name = f"{one.namespace}/{one.service}"
    alike = [each for each in all_of_them if (each.namespace, each.service) == (one.namespace, one.service)]
    if len(alike) > 1:
        name += " " + ",".join(endpoint(each.address, each.port) for each in one.frontends)
    for each in one.clusters:
        before, after = each.before, each.after
        yield [
            name,
            each.cluster,
            f"{before.share:.0%} -> {after.share:.0%}",
            f"{before.backends} -> {after.backends}",
            load(before, after),
            f"{headroom(before)} -> {headroom(after)}" if has_headroom(each) else "-",
        ]
        name = ""
    if one.nothing_left:
        yield [name, "nobody", "", "", "", ""]


def load(before: failover_pb2.Taking, after: failover_pb2.Taking) -> str:
    """How much more each of its backends gets; of a cluster that took nothing there is no such number."""
    if not (before.share and after.share):
        return "-"
    return f"x{after.share / after.backends / (before.share / before.backends):.2f}"


def has_headroom(one: failover_pb2.ClusterTaking) -> bool:
    """Whether a capacity is stated of it, before or after."""
    return any(taking.HasField("headroom") for taking in (one.before, one.after))


def headroom(taking: failover_pb2.Taking) -> str:
    """In points of the service's traffic."""
    return f"{taking.headroom:+.0%}" if taking.HasField("headroom") else "-"


def all_plans(channel: grpc.Channel, options: argparse.Namespace) -> Sequence[failover_pb2.FailoverPlan]:
    """Of every service that loses a backend, from all pages."""
    stub = FailoverServiceStub(channel)

    def page(token: str) -> failover_pb2.PlanFailoverResponse:
        request = failover_pb2.PlanFailoverRequest(
            cluster=options.lose, node=options.node, zone=options.zone, page_token=token
        )
        return stub.PlanFailover(request, timeout=options.timeout)

    return [one for answer in pages(page) for one in answer.plans]

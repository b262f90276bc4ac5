"""``meshctl failover drill``: a service is served for a while as if a cluster could not be reached, on all nodes."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping

from meshd.api.v1 import failover_pb2
from meshd.api.v1.failover_pb2_grpc import FailoverServiceStub
from meshd.ctl.connection import connected
from meshd.ctl.failover import shares
from meshd.ctl.names import service_name
from meshd.ctl.output import as_dict, print_table, show_object

TITLES = ("NODE", "PLANNED", "OBSERVED", "CONNECTIONS", "REASON")


def drill(options: argparse.Namespace) -> int:
    """1 if a node did not take part, or has not said what it gave."""
    namespace, name = service_name(options.service, options.namespace)
    request = failover_pb2.StartDrillRequest(
        namespace=namespace, service=name, lose=options.lose, for_seconds=options.for_s
    )
    with connected(options) as channel:
        stub = FailoverServiceStub(channel)
        begun = stub.StartDrill(request, timeout=options.timeout).drill
        if options.output == "table":
            print_begun(begun, f"{namespace}/{name}", options)
        interrupted = not waited(begun.until.ToNanoseconds() / 1e9 - time.time())
        stop = failover_pb2.StopDrillRequest(number=begun.number)
        over = stub.StopDrill(stop, timeout=options.timeout).drill
    if options.output == "table":
        print_over(over, interrupted=interrupted)
    else:
        show_object({"begun": as_dict(begun), "over": as_dict(over)}, options.output)
    refusals = [one for one in (*begun.nodes, *over.nodes) if one.reason]
    return 1 if begun.missing or over.missing or refusals else 0


def waited(pause_s: float) -> bool:
    """Whether nobody interrupted it."""
    try:
        time.sleep(max(pause_s, 0.0))
    except KeyboardInterrupt:
        return False
    return True


def print_begun(one: failover_pb2.Drill, service: str, options: argparse.Namespace) -> None:
    """Who takes part, and who has not said so."""
    taking = sum(not node.reason for node in one.nodes)
    print(
        f"{service} is served without {options.lose} on {taking} nodes, for {options.for_s:g} s; Ctrl-C ends it"
    )
    for node in one.nodes:
        if node.reason:
            print(f"! {node.node} does not take part: {node.reason}")
        elif options.lose in node.planned:
            print(f"! {node.node}: nobody else serves, so {options.lose} goes on")
    print_missing(one.missing, "has not given its word; it may serve as before")
    sys.stdout.flush()


def print_over(one: failover_pb2.Drill, *, interrupted: bool) -> None:
    """Planned against observed, node by node."""
    print("the drill was ended" if interrupted else "the drill is over")
    rows = [
        [
            node.node,
            shares(node.planned) if node.planned else "-",
            shares(observed(node.given)) if node.given else "-",
            str(sum(node.given.values())),
            node.reason or "-",
        ]
        for node in one.nodes
    ]
    print_table(TITLES, rows)
    total: Counter[str] = Counter()
    for node in one.nodes:
        total.update(node.given)
    print(f"\n{total.total()} connections: {shares(observed(total)) if total else '-'}")
    print_missing(one.missing, "has not said what it gave; the drill ends there in its time")


def print_missing(nodes: Iterable[str], what: str) -> None:
    """A line for each."""
    for node in nodes:
        print(f"! {node} {what}")


def observed(given: Mapping[str, int]) -> dict[str, float]:
    """Cluster -> its share of the connections."""
    total = sum(given.values())
    return {name: count / total for name, count in given.items()}

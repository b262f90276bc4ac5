"""``meshctl status``: what is wrong first, then what there is."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from meshd.api.v1 import status_pb2
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.ctl.columns import CLUSTERS, MAPS, word
from meshd.ctl.connection import connected
from meshd.ctl.output import BOLD, RED, YELLOW, Column, age, as_dict, coloured, print_table, show, show_object

Row = TypeVar("Row")

SOURCES: tuple[Column[status_pb2.Source], ...] = (
    Column("SOURCE", lambda one: one.name),
    Column("STATE", lambda one: word(status_pb2.SourceState.Name(one.state), "SOURCE_STATE_")),
    Column("SERVICES", lambda one: str(one.services)),
    Column("BACKENDS", lambda one: str(one.backends)),
    Column("REASON", lambda one: one.reason or "-"),
)


def run(options: argparse.Namespace) -> int:
    """1 only if the agent cannot be asked; what is wrong with it is in the answer."""
    with connected(options) as channel:
        request = status_pb2.GetStatusRequest()
        answer = StatusServiceStub(channel).GetStatus(request, timeout=options.timeout)
    if options.output in {"json", "yaml"}:
        show_object(as_dict(answer), options.output)
        return 0
    print_head(answer)
    for warning in answer.warnings:
        print(coloured(f"! {warning}", YELLOW))
    for row in answer.failed:
        print(coloured(f"! {row.name}: {row.reason}", RED))
    section(answer.sources, SOURCES, options.output)
    section(answer.clusters, CLUSTERS, options.output)
    section(answer.maps, MAPS, options.output)
    print_kernel(answer, wide=options.output == "wide")
    if options.output == "wide":
        print_figures(answer)
    return 0


def print_head(answer: status_pb2.GetStatusResponse) -> None:
    """Who this is, and whether the kernel holds what is wanted."""
    version = answer.version
    commit = f" ({version.commit})" if version.commit else ""
    title = coloured(f"{answer.node} of {answer.cluster}", BOLD)
    print(
        f"{title}: meshd {version.version}{commit}, up {age(answer.started.seconds, time.time())}, "
        f"kernel {version.kernel}, python {version.python}"
    )
    print(
        f"revision {answer.revision}: {answer.services} services, {answer.backends} backends; {work(answer)}"
    )


def work(answer: status_pb2.GetStatusResponse) -> str:
    """What is still to do."""
    parts = [
        f"{answer.pending} changes wait for the kernel ({answer.lag_seconds:.1f} s)"
        if answer.pending
        else "",
        f"{answer.failed_count} rows failed" if answer.failed_count else "",
    ]
    found = ", ".join(filter(None, parts)) or "all of it is in the kernel"
    if answer.rows_repaired:
        found += f"; {answer.rows_repaired} rows that somebody else changed were put right"
    return found


def section(rows: Iterable[Row], columns: tuple[Column[Row], ...], output: str) -> None:
    """A table with an empty line above it; nothing if there are no rows."""
    rows = list(rows)
    if rows:
        print()
        show("", rows, columns, output)


def print_kernel(answer: status_pb2.GetStatusResponse, *, wide: bool) -> None:
    """What the kernel lacks, which programs are not in use, and what that costs; with ``wide`` all of both."""
    features = [one for one in answer.features if wide or not one.present]
    programs = [one for one in answer.programs if wide or one.left_out]
    if features:
        print()
        rows = [
            [one.name, "present" if one.present else "absent", one.needed_by, cost(one)] for one in features
        ]
        print_table(["KERNEL FEATURE", "STATE", "NEEDED BY", "COST"], rows)
    if programs:
        print()
        print_table(["PROGRAM", "ATTACHED TO"], [[one.name, where(one)] for one in programs])


def cost(one: status_pb2.Feature) -> str:
    """What its absence costs, and why it is absent."""
    return "; ".join(filter(None, (one.cost, one.reason))) or "-"


def where(one: status_pb2.Program) -> str:
    """Where the program acts, or why it does not."""
    return f"not loaded: {one.left_out}" if one.left_out else one.attached_to or "-"


def print_figures(answer: status_pb2.GetStatusResponse) -> None:
    """What the dataplane counts."""
    if answer.figures:
        print()
        print_table(["FIGURE", "OF", "VALUE"], list(figures(answer)))


def figures(answer: status_pb2.GetStatusResponse) -> Iterator[list[str]]:
    """A row for each value."""
    for one in answer.figures:
        labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
        yield [one.name, labels or "-", f"{one.value:g}"]

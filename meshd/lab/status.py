"""`meshctl lab status`: every part of a lab in one table, and of every node what is missing until it is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from meshd.lab.lab import Lab
from meshd.lab.layout import Node, Places
from meshd.lab.processes import tree
from meshd.lab.readiness import reason
from meshd.lab.up import Say

Row = tuple[str, str, str, str, str]
HEADINGS: Row = ("PART", "NAME", "WHERE", "PROCESSES", "STATE")


async def show(places: Places, say: Say) -> int:
    """Prints the table; 0 if everything runs and every node is settled, else 1.

    Raises:
        LabError: the lab has no record.
    """
    lab = Lab.opened(places)
    rows = await rows_of(lab)
    say(f"lab {places.id} ({lab.record.keeper})")
    for line in table([HEADINGS, *rows]):
        say(line)
    return 0 if all(row[4] in ("running", "settled") for row in rows) else 1


async def rows_of(lab: Lab) -> list[Row]:
    """One row for each etcd, node and pod."""
    places = lab.places
    rows = []
    for cluster in lab.clusters:
        pids = tree(places.etcd_cgroup(cluster.name))
        rows.append(("etcd", cluster.name, str(cluster.etcd.v4), _count(pids), _running(pids)))
    states = await asyncio.gather(*(_node_state(lab, node) for node in lab.nodes))
    for node, state in zip(lab.nodes, states, strict=True):
        rows.append(("node", node.name, str(node.fabric.v4), _count(tree(places.agent_cgroup(node))), state))
    for pod in lab.record.pods.values():
        pids = tree(places.pod_cgroup(lab.node(pod.node), pod.name))
        rows.append(("pod", pod.id, f"{pod.node} {lab.addresses(pod).v4}", _count(pids), _running(pids)))
    return rows


async def _node_state(lab: Lab, node: Node) -> str:
    if not tree(lab.places.agent_cgroup(node)):
        return "ended"
    return await reason(lab, node) or "settled"


def _running(pids: Sequence[int]) -> str:
    return "running" if pids else "ended"


def _count(pids: Sequence[int]) -> str:
    return " ".join(map(str, pids)) or "-"


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """``rows`` as lines of columns, the last one as long as it is."""
    kept = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in kept
    ]

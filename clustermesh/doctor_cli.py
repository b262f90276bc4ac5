"""``clustermesh doctor``: what is wrong with the mesh, as far as files and etcds tell."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clustermesh.membership_cli import DIRECTORY, quiet_grpc

TOLD = "look at all clusters that this one is joined with, and say what is wrong, where, and what to do"
EPILOG = "Exit status: 0 nothing is wrong, 1 something is, or could not be looked at, 2 wrong usage. Nothing is changed."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``doctor`` takes to ``parser``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add(
        "--directory",
        type=Path,
        default=DIRECTORY,
        metavar="DIR",
        help=f"this cluster's files, as `init` made them (default: {DIRECTORY})",
    )
    add("--name", metavar="CLUSTER", help="what this cluster is called, where `init` made no files")
    add("--id", type=int, default=0, help="with --name: its cluster id")
    add("--peers", type=Path, metavar="DIR", help="with --name: one etcd client file for each peer")
    add("--etcd", type=Path, metavar="FILE", help="with --name: the client file of its own etcd")
    add("--max-connected-clusters", type=int, choices=(255, 511), default=255)
    add("-o", "--output", choices=("table", "json"), default="table")


async def run(options: argparse.Namespace) -> int:
    """Looks, and prints what is found; the exit status."""
    quiet_grpc()
    from clustermesh.doctor import findings  # noqa: PLC0415 - quick help
    from clustermesh.examination import Files, examine, joined_files  # noqa: PLC0415 - imports gRPC
    from clustermesh.finding import as_documents, as_table, is_wrong  # noqa: PLC0415 - with its neighbours

    if options.name:
        files = Files(
            options.name,
            options.id,
            options.etcd,
            options.peers,
            max_connected_clusters=options.max_connected_clusters,
        )
    else:
        files = joined_files(options.directory, options.max_connected_clusters)
    snapshot = await examine(files)
    found = findings(snapshot)
    if options.output == "json":
        print(json.dumps({"cluster": snapshot.name, "findings": as_documents(found)}, indent=2))
    else:
        looked_at = ", ".join(each.cluster for each in snapshot.etcds) or "nobody"
        print(as_table(found, f"{snapshot.name} looked at {looked_at}"))
    return 1 if is_wrong(found) else 0

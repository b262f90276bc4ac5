"""``clustermesh mirror``: copies all peers into the etcd of one cluster, until stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

TOLD = "copy all peers into this cluster's etcd, as KVStoreMesh does, until stopped"
EPILOG = """\
Nodes read the copy with client files that name this cluster's etcd, one for each peer, named like it. What was copied
stays when the mirror ends; another one that waits takes over.
"""
MEBIBYTE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``mirror`` takes to ``parser``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--name", required=True, metavar="CLUSTER", help="what this cluster is called")
    add("--id", type=int, default=0, help="its cluster id: no peer with the same is copied")
    add("--peers", type=Path, required=True, metavar="DIR", help="one etcd client file for each peer")
    add("--into", type=Path, required=True, metavar="FILE", help="etcd client YAML of the etcd to copy into")
    add("--election-ttl", type=int, default=15, metavar="SECONDS", help="a dead mirror is waited for so long")
    add(
        "--data-ttl",
        type=int,
        default=900,
        metavar="SECONDS",
        help="cluster-configs and canaries outlive the last mirror for so long; records stay",
    )
    add(
        "--drain",
        type=float,
        default=180.0,
        metavar="SECONDS",
        help="of a peer whose file is gone: between its cluster-config and its records (default: %(default)g)",
    )
    add(
        "--most",
        type=int,
        default=256,
        metavar="MIB",
        help="no peer's copy is larger, keys included (default: %(default)d)",
    )


async def run(options: argparse.Namespace) -> int:
    """Copies until a signal comes; 0 then."""
    from clustermesh.errors import OptionsError, PeerFileError  # noqa: PLC0415 - quick help
    from clustermesh.kv import Kv  # noqa: PLC0415 - imports gRPC
    from clustermesh.mirror import Mirror, MirrorOptions  # noqa: PLC0415 - imports gRPC
    from clustermesh.peers import parse_file  # noqa: PLC0415 - imports gRPC

    if not 0 < options.election_ttl < options.data_ttl:
        raise OptionsError("--election-ttl must be shorter than --data-ttl")
    into: Path = options.into
    try:
        own = parse_file(str(into), options.name, into.read_bytes())  # noqa: ASYNC240 - before anything else runs
    except OSError as error:
        raise PeerFileError(str(into), error.strerror or "cannot be read") from error
    times = MirrorOptions(
        election_ttl_s=options.election_ttl,
        data_ttl_s=options.data_ttl,
        drain_s=options.drain,
        most_bytes=options.most * MEBIBYTE,
    )
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Kv(own.endpoints, credentials=own.credentials, tls=own.tls) as kv:
        mirror = Mirror(options.peers, options.name, options.id, kv, options=times)
        running = asyncio.create_task(mirror.run())
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
    return 0 if stopped.is_set() else 1

"""Looks at a mesh: the files of a cluster, and every etcd that they name (etcd_look.py, member_look.py). Changes nothing."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from clustermesh import membership
from clustermesh.addresses import Network
from clustermesh.call import KvOptions
from clustermesh.certificate_look import certificates
from clustermesh.channel import TlsFiles
from clustermesh.errors import ClustermeshError, DirectoryUnreadable, PeerFileError
from clustermesh.etcd_look import OPTIONS, administered, read
from clustermesh.kv import Kv
from clustermesh.member_look import Clock, look_at
from clustermesh.peers import Peer, parse_file, read_directory
from clustermesh.snapshot import Etcd, Snapshot

HOPELESS = KvOptions(attempt_timeout_s=0.5, deadline_s=0.5)


@dataclass(frozen=True, slots=True)
class Files:
    """Where a cluster's client files are. ``etcd``: of its own etcd; ``peers``: a directory; None: there is none.

    ``moved``: where files lie that a client file names by another path.
    """

    name: str
    cluster_id: int = 0
    etcd: Path | None = None
    peers: Path | None = None
    networks: tuple[Network, ...] = ()
    max_connected_clusters: int = 255
    moved: Callable[[Path], Path] = lambda path: path


def joined_files(directory: Path, max_connected_clusters: int = 255) -> Files:
    """Of the cluster whose files `init` made in ``directory``.

    Raises:
        MembershipError: there are none.
    """
    cluster = membership.own(directory)

    def moved(path: Path) -> Path:
        # Client files name places as nodes see them, which may be elsewhere.
        return directory / path.relative_to(cluster.seen_as) if path.is_relative_to(cluster.seen_as) else path

    return Files(
        cluster.name,
        cluster.cluster_id,
        directory / membership.CLIENT / "etcd.yaml",
        directory / membership.PEERS,
        cluster.networks,
        max_connected_clusters,
        moved,
    )


def now() -> datetime.datetime:
    """UTC."""
    return datetime.datetime.now(datetime.UTC)


async def examine(files: Files, clock: Clock = now) -> Snapshot:
    """All etcds that ``files`` name, at the same time; some 10 s at most for one that does not answer."""
    refused: dict[str, str] = {}
    clients: list[tuple[Peer, Path]] = []
    if files.etcd is not None:
        try:
            clients.append((parse_file(str(files.etcd), files.name, files.etcd.read_bytes()), files.etcd))
        except PeerFileError as error:
            refused[str(files.etcd)] = error.reason
        except OSError as error:
            refused[str(files.etcd)] = error.strerror or "cannot be read"
    if files.peers is not None:
        try:
            scan = read_directory(files.peers, files.name, {})
        except DirectoryUnreadable as error:
            refused[str(files.peers)] = error.reason
        else:
            refused |= {error.path: error.reason for error in scan.refused.values()}
            clients += [(peer, files.peers / name) for name, peer in scan.peers.items()]
    looks = (_look(_moved(peer, files), path, path == files.etcd, clock) for peer, path in clients)
    etcds = await asyncio.gather(*looks)
    return Snapshot(
        files.name,
        clock(),
        files.cluster_id,
        files.max_connected_clusters,
        files.networks,
        tuple(etcds),
        refused,
    )


def _moved(peer: Peer, files: Files) -> Peer:
    if peer.tls is None:
        return peer
    paths = (peer.tls.trusted_ca, peer.tls.certificate, peer.tls.key)
    return replace(peer, tls=TlsFiles(*(path and files.moved(path) for path in paths)))


async def _look(peer: Peer, path: Path, is_own: bool, clock: Clock) -> Etcd:
    seen = Etcd(peer.name, path, is_own, peer.pin, certificates=certificates(peer.tls))
    if any(each.problem for each in seen.certificates):
        return replace(seen, problem="certificates of its client file cannot be used")
    members = await asyncio.gather(
        *(asyncio.to_thread(look_at, each, peer.tls, clock) for each in peer.endpoints)
    )
    seen = replace(seen, members=tuple(members))
    # Where no member answered just now, gRPC's own reason is still worth a moment.
    answers = any(not (each.problem or each.chain_problem) for each in members)
    options = OPTIONS if answers else HOPELESS
    try:
        async with Kv(peer.endpoints, credentials=peer.credentials, tls=peer.tls, options=options) as kv:
            seen = await read(kv, peer, seen)
        return await administered(peer, seen) if is_own else seen
    except (ClustermeshError, OSError) as error:
        return replace(seen, problem=getattr(error, "reason", None) or str(error))

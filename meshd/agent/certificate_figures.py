"""When the certificates that this agent shows, and those it trusts, end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from clustermesh.authority import expires
from clustermesh.channel import TlsFiles
from clustermesh.errors import ClustermeshError
from clustermesh.peers import parse_file, read_directory
from meshd.config import Config
from meshd.servers.introspection import Figure, Sample


def certificate_figures(config: Config) -> Sequence[Figure]:
    """One value a file, read now; of a file that cannot be read there is none, and its user complains of it."""
    samples = []
    for path in dict.fromkeys(_paths(config)):
        with contextlib.suppress(OSError, ValueError):
            samples.append(Sample(expires(path.read_bytes()).timestamp(), {"file": str(path)}))
    return [
        Figure(
            "certificate_expires_seconds",
            "Unix time at which a certificate file ends.",
            "gauge",
            tuple(samples),
        )
    ]


def _paths(config: Config) -> Iterator[Path]:
    if config.api.tls is not None:
        yield from (config.api.tls.certificate, config.api.tls.ca)
    for tls in _of_clustermesh(config):
        yield from (path for path in (tls.certificate, tls.trusted_ca) if path is not None)


def _of_clustermesh(config: Config) -> Iterator[TlsFiles]:
    mesh, own = config.clustermesh, config.cluster_name
    with contextlib.suppress(OSError, ClustermeshError):
        if mesh.etcd is not None and (peer := parse_file(str(mesh.etcd), own, mesh.etcd.read_bytes())).tls:
            yield peer.tls
    with contextlib.suppress(ClustermeshError):
        if mesh.peers is not None:
            yield from (peer.tls for peer in read_directory(mesh.peers, own, {}).peers.values() if peer.tls)

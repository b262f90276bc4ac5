"""Which clusters to connect to: a directory with one etcd client file per peer, named like the cluster.

Every regular file that contains the text ``endpoints:`` is a peer, so certificates may lie beside it and
Kubernetes may mount a Secret there. That rule, the file's keys and the name of the directory are Cilium's,
so its files can be used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clustermesh.call import Credentials
from clustermesh.channel import Endpoint, TlsFiles, parse_endpoint
from clustermesh.errors import DirectoryUnreadable, OptionsError, PeerFileError
from clustermesh.keys import cluster_name_problem
from clustermesh.pin import ANY, Pin
from clustermesh.pin import KEY as PIN
from clustermesh.pin import parse as parse_pin

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Peer:
    """How to reach the etcd of cluster ``name``, and what it may be; ``digest`` is that of the file it came from."""

    name: str
    endpoints: tuple[Endpoint, ...]
    tls: TlsFiles | None = None
    credentials: Credentials | None = None
    digest: str = ""
    pin: Pin = ANY


@dataclass(frozen=True, slots=True)
class Scan:
    """A complete reading of the directory: peers by name, and the files that cannot be used by file name."""

    peers: Mapping[str, Peer] = field(default_factory=dict)
    refused: Mapping[str, PeerFileError] = field(default_factory=dict)


def read_directory(directory: Path, own_name: str, previous: Mapping[str, Peer]) -> Scan:
    """All peers in ``directory``. A file that cannot be used leaves the ``previous`` peer of its name in
    force.

    Raises:
        DirectoryUnreadable: it is missing or cannot be listed, which says nothing about its peers.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise DirectoryUnreadable(str(directory), error.strerror or "cannot be read") from error
    peers: dict[str, Peer] = {}
    refused: dict[str, PeerFileError] = {}
    for path in paths:
        try:
            peer = read_file(path, own_name, previous)
        except PeerFileError as error:
            refused[path.name] = error
            peer = previous.get(path.name)
        if peer is not None:
            peers[peer.name] = peer
    return Scan(peers, refused)


def read_file(path: Path, own_name: str, previous: Mapping[str, Peer]) -> Peer | None:
    """The peer in ``path``, None if the file is not one (or is ourselves).

    PeerFileError if it is one but unusable.
    """
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PeerFileError(str(path), f"is larger than {MAX_FILE_BYTES} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise PeerFileError(str(path), error.strerror or "cannot be read") from error
    if b"endpoints:" not in text or path.name == own_name:
        return None
    digest = hashlib.sha256(text).hexdigest()
    known = previous.get(path.name)
    if known is not None and known.digest == digest:
        return known
    return parse_file(str(path), path.name, text)


def parse_file(path: str, name: str, text: bytes) -> Peer:
    """The peer ``name`` as ``text``, an etcd client file, describes it.

    PeerFileError names what is wrong with it.
    """
    if (problem := cluster_name_problem(name)) is not None:
        raise PeerFileError(path, f"the name of the cluster, {name[:60]!r}, {problem}")
    digest = hashlib.sha256(text).hexdigest()
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()
        raise PeerFileError(
            path, f"is not YAML: {' '.join(line.strip() for line in reason)[:200]}"
        ) from error
    if not isinstance(document, dict):
        raise PeerFileError(path, "is not a mapping")
    if document.get("insecure-skip-tls-verify"):
        raise PeerFileError(
            str(path), "insecure-skip-tls-verify: a peer that is not verified is not connected"
        )
    urls = document.get("endpoints")
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise PeerFileError(path, "endpoints: expected a list of URLs")
    try:
        aliases = _aliases(document.get("cilium-host-aliases") or [])
        endpoints = tuple(parse_endpoint(url, aliases) for url in urls)
        files = (_path(document, key) for key in ("trusted-ca-file", "cert-file", "key-file"))
        pin = parse_pin(document[PIN]) if PIN in document else ANY
        return Peer(name, endpoints, TlsFiles(*files), _credentials(document), digest, pin)
    except OptionsError as error:
        raise PeerFileError(path, str(error)) from error


def _path(document: Mapping[str, Any], key: str) -> Path | None:  # Any: YAML of a stranger, judged here
    value = document.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise OptionsError(f"{key}: expected a path")
    return Path(value)


def _credentials(document: Mapping[str, Any]) -> Credentials | None:
    user, password = document.get("username"), document.get("password")
    if user is None and password is None:
        return None
    if not isinstance(user, str) or not isinstance(password, str):
        raise OptionsError("username and password: expected two strings")
    return Credentials(user, password)


def _aliases(entries: Any) -> dict[str, tuple[str, ...]]:
    try:
        return {str(entry["hostname"]): tuple(str(ip) for ip in entry["ips"]) for entry in entries}
    except (TypeError, KeyError) as error:
        raise OptionsError("cilium-host-aliases: expected a list of {hostname, ips}") from error

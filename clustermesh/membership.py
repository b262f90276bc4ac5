"""The files with which a cluster is part of a mesh: its authority, its etcd's certificates, its peers.

    cluster.yaml    what this cluster is: name, id, networks, endpoints of its etcd
    authority/      ca.crt, ca.key: needed to invite and to rotate, and on no node
    etcd/           ca.crt, etcd.crt, etcd.key: for the servers
    client/         ca.crt, admin.crt, admin.key, etcd.yaml: for this cluster's nodes (clustermesh.etcd)
    peers/          NAME, NAME.ca.crt, NAME.crt, NAME.key: for this cluster's nodes (clustermesh.peers)

Every directory but the first file is one Secret where the nodes are Kubernetes'. A cluster joins another with an
invitation of it, which holds a key: it is to be handed over like a password.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clustermesh import access, pin
from clustermesh.authority import Authority, Pair, expires, write_pair
from clustermesh.errors import MembershipError
from clustermesh.invitation import Cluster, Invitation, as_mapping, check, dump, overlaps, parse, render
from clustermesh.keys import cluster_name_problem
from clustermesh.pin import Pin
from clustermesh.whole_file import write

CLUSTER, AUTHORITY, ETCD, CLIENT, PEERS = "cluster.yaml", "authority", "etcd", "client", "peers"
CA, OLD = "ca.crt", "old.crt"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate among the files; ``path`` relative to their directory."""

    path: Path
    expires: datetime.datetime


def init(directory: Path, cluster: Cluster) -> bool:
    """Makes everything but peers, once; False: it is there already.

    Raises:
        MembershipError: ``directory`` is another cluster's, or ``cluster`` is not one that could be in a mesh.
    """
    check(cluster)
    if (directory / CLUSTER).exists():
        if own(directory) != cluster:
            raise MembershipError(f"{directory} has another cluster: {_facts(own(directory))}")
        return False
    for part in (AUTHORITY, ETCD, CLIENT, PEERS):
        (directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority.make(f"meshd {cluster.name}")
    write_pair(directory / AUTHORITY, "ca", authority.pair)
    _trust(directory, authority.pem)
    _issue_own(directory, cluster, authority)
    # Last: what is not complete is made again.
    write(directory / CLUSTER, render(cluster), 0o644)
    return True


def own(directory: Path) -> Cluster:
    """The cluster whose files these are.

    Raises:
        MembershipError: there are none.
    """
    return parse(as_mapping(directory / CLUSTER, _read(directory / CLUSTER)), str(directory / CLUSTER))


def invite(directory: Path, reader: str, valid: datetime.timedelta) -> Invitation:
    """With it, nodes of ``reader`` may read this cluster's etcd, once that has been told of them (access.py).

    Raises:
        MembershipError: ``reader`` cannot be the name of another cluster, or there is no authority here.
    """
    cluster = own(directory)
    if reader == cluster.name:
        raise MembershipError(f"{reader} is this cluster")
    if (problem := cluster_name_problem(reader)) is not None:
        raise MembershipError(f"cluster name {reader!r} {problem}")
    pair = _authority(directory).issue(access.remote(reader), valid=valid)
    return Invitation(cluster, reader, _read(directory / CLIENT / CA), pair)


def join(directory: Path, invitation: Invitation) -> bool:
    """Nodes of this cluster read the one that invites; False: they had exactly this before.

    An invitation of a cluster that was joined before replaces that one.

    Raises:
        MembershipError: it is for another cluster, or its name, id or networks are taken in this mesh.
    """
    here, there = own(directory), invitation.cluster
    if invitation.reader != here.name:
        raise MembershipError(
            f"the invitation of {there.name} is for {invitation.reader}, this is {here.name}"
        )
    check(there)
    if there.name == here.name:
        raise MembershipError(f"the invitation is of a cluster that is called {here.name}, like this one")
    for name, known in ((here.name, _pin_of(here)), *peers(directory).items()):
        if name != there.name:
            _check_apart(there, name, known)
    below = directory / PEERS
    before = _contents(below)
    below.mkdir(mode=0o700, exist_ok=True)
    write(below / f"{there.name}.ca.crt", invitation.trusted, 0o644)
    write_pair(below, there.name, invitation.pair)
    seen = here.seen_as / PEERS
    document = _client_file(
        there, seen / f"{there.name}.ca.crt", seen / f"{there.name}.crt", seen / f"{there.name}.key"
    )
    # Last: it is what makes the others a peer.
    write(below / there.name, dump(document | {pin.KEY: pin.render(_pin_of(there))}))
    return _contents(below) != before


def leave(directory: Path, name: str) -> bool:
    """Nodes of this cluster do not read ``name`` any more; False: they did not before."""
    # The file that makes it a peer first.
    paths = [directory / PEERS / f"{name}{suffix}" for suffix in ("", ".crt", ".key", ".ca.crt")]
    there = [path for path in paths if path.exists()]
    for path in there:
        path.unlink()
    return bool(there)


def peers(directory: Path) -> dict[str, Pin]:
    """The clusters that were joined, and as what."""
    found = {}
    for path in sorted((directory / PEERS).glob("*")):
        if path.suffix not in {".crt", ".key"}:
            document = as_mapping(path, _read(path))
            found[path.name] = pin.parse(document[pin.KEY]) if pin.KEY in document else pin.ANY
    return found


def certificates(directory: Path) -> list[Certificate]:
    """All that end one day, the next first."""
    found = [
        Certificate(path.relative_to(directory), expires(_read(path)))
        for path in sorted(directory.glob("*/*.crt"))
    ]
    return sorted(found, key=lambda one: one.expires)


def rotate_certificates(directory: Path) -> None:
    """New certificates for the servers and this cluster's nodes, of the authority that there is; peers need a new
    invitation for theirs."""
    _issue_own(directory, own(directory), _authority(directory))


def begin_rotation(directory: Path) -> None:
    """A new authority, which signs from now on; the old one is trusted beside it until finish_rotation().

    Raises:
        MembershipError: the last one has not been finished.
    """
    below = directory / AUTHORITY
    if (below / OLD).exists():
        raise MembershipError("the authority is being rotated already: finish that first")
    old, new = _read(below / CA), Authority.make(f"meshd {own(directory).name}")
    # Trusted before it signs anything.
    _trust(directory, new.pem + old)
    write(below / OLD, old, 0o644)
    write_pair(below, "ca", new.pair)


def finish_rotation(directory: Path) -> None:
    """Only the new authority is trusted.

    Raises:
        MembershipError: a certificate of the old one is still in use here.
    """
    authority = _authority(directory)
    for path in (directory / ETCD / "etcd.crt", directory / CLIENT / "admin.crt"):
        if not authority.has_signed(_read(path)):
            raise MembershipError(f"{path} is of the old authority: rotate certificates first")
    _trust(directory, authority.pem)
    (directory / AUTHORITY / OLD).unlink(missing_ok=True)


def _issue_own(directory: Path, cluster: Cluster, authority: Authority) -> None:
    write_pair(
        directory / ETCD, "etcd", authority.issue("etcd", (*cluster.hosts, "localhost", "127.0.0.1", "::1"))
    )
    write_pair(directory / CLIENT, "admin", authority.issue(access.admin(cluster.name)))
    seen = cluster.seen_as / CLIENT
    document = _client_file(cluster, seen / CA, seen / "admin.crt", seen / "admin.key")
    write(directory / CLIENT / "etcd.yaml", dump(document))


def _trust(directory: Path, bundle: bytes) -> None:
    for part in (ETCD, CLIENT):
        write(directory / part / CA, bundle, 0o644)


def _authority(directory: Path) -> Authority:
    below = directory / AUTHORITY
    try:
        return Authority.load(Pair(_read(below / CA), _read(below / "ca.key")))
    except ValueError as error:
        raise MembershipError(f"{below}: {error}") from error


def _client_file(
    cluster: Cluster, trusted: Path, certificate: Path, key: Path
) -> dict[str, Any]:  # Any: YAML
    return {
        "endpoints": list(cluster.endpoints),
        "trusted-ca-file": str(trusted),
        "cert-file": str(certificate),
        "key-file": str(key),
    }


def _check_apart(cluster: Cluster, name: str, known: Pin) -> None:
    if cluster.cluster_id == known.cluster_id:
        raise MembershipError(f"{cluster.name} has the cluster id {known.cluster_id}, like {name}")
    for one, other in overlaps(cluster.networks, known.networks):
        raise MembershipError(f"{one} of {cluster.name} overlaps {other} of {name}")


def _pin_of(cluster: Cluster) -> Pin:
    return Pin(cluster.cluster_id, cluster.networks)


def _facts(cluster: Cluster) -> str:
    return f"{cluster.name}, id {cluster.cluster_id}, at {', '.join(cluster.endpoints)}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MembershipError(f"{path}: {error.strerror}") from error


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*") if path.is_file()}

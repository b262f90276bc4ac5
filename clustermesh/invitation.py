"""What a cluster is to the others of a mesh, as it stands in files and in invitations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from clustermesh.addresses import Network
from clustermesh.authority import Pair, expires
from clustermesh.channel import parse_endpoint
from clustermesh.errors import MembershipError, OptionsError
from clustermesh.keys import cluster_name_problem

MAX_ID = 511


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster is to others. ``networks``: all that its pods, nodes and backends have addresses in.

    ``seen_as``: where its nodes find these files.
    """

    name: str
    cluster_id: int
    networks: tuple[Network, ...]
    endpoints: tuple[str, ...]
    seen_as: Path

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of the endpoints: what the certificate of the servers is for."""
        return tuple(dict.fromkeys(parse_endpoint(url).host for url in self.endpoints))


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a cluster ``reader`` needs to read ``cluster``."""

    cluster: Cluster
    reader: str
    trusted: bytes
    pair: Pair


def parse_invitation(text: bytes) -> Invitation:
    """What render_invitation() wrote.

    Raises:
        MembershipError: it is none.
    """
    document = as_mapping("invitation", text)
    try:
        pair = Pair(str(document["certificate"]).encode(), str(document["key"]).encode())
        trusted = str(document["trusted"]).encode()
        expires(pair.certificate), expires(trusted)
        return Invitation(parse(document, "invitation"), str(document["reader"]), trusted, pair)
    except (KeyError, ValueError) as error:
        raise MembershipError(f"this is no invitation: {error}") from error


def render_invitation(invitation: Invitation) -> bytes:
    """``invitation`` as YAML. It holds a key."""
    document = yaml.safe_load(render(invitation.cluster)) | {
        "reader": invitation.reader,
        "trusted": invitation.trusted.decode(),
        "certificate": invitation.pair.certificate.decode(),
        "key": invitation.pair.key.decode(),
    }
    return dump(document)


def check(cluster: Cluster) -> None:
    """Returns if ``cluster`` could be in a mesh; else MembershipError with the reason."""
    if (problem := cluster_name_problem(cluster.name)) is not None:
        raise MembershipError(f"cluster name {cluster.name!r} {problem}")
    if not 1 <= cluster.cluster_id <= MAX_ID:
        raise MembershipError(f"cluster id {cluster.cluster_id} is not within 1..{MAX_ID}")
    if not cluster.endpoints or not all(url.startswith("https://") for url in cluster.endpoints):
        raise MembershipError("endpoints: expected https://HOST:PORT, one or more")
    if not cluster.networks:
        raise MembershipError(
            "networks: none; name all that pods, nodes and backends of the cluster have addresses in"
        )
    for one, other in overlaps(cluster.networks, cluster.networks):
        if one is not other:
            raise MembershipError(f"networks: {one} and {other} overlap")


def overlaps(some: Iterable[Network], others: Iterable[Network]) -> Iterator[tuple[Network, Network]]:
    """Pairs that have an address in common."""
    for one in some:
        for other in others:
            if one.version == other.version and one.overlaps(other):
                yield one, other


def render(cluster: Cluster) -> bytes:
    """``cluster`` as YAML."""
    return dump(
        {
            "name": cluster.name,
            "id": cluster.cluster_id,
            "networks": [str(network) for network in cluster.networks],
            "endpoints": list(cluster.endpoints),
            "seenAs": str(cluster.seen_as),
        }
    )


def parse(document: Mapping[str, Any], where: str) -> Cluster:  # Any: YAML
    """The cluster that render() wrote; MembershipError names ``where``."""
    try:
        cluster = Cluster(
            str(document["name"]),
            int(document["id"]),
            tuple(ip_network(str(each)) for each in document["networks"]),
            tuple(str(each) for each in document["endpoints"]),
            Path(str(document["seenAs"])),
        )
        cluster.hosts  # noqa: B018 - every endpoint is parsed
    except (KeyError, TypeError, ValueError, OptionsError) as error:
        raise MembershipError(f"{where}: {error}") from error
    return cluster


def as_mapping(where: object, text: bytes) -> dict[str, Any]:  # Any: YAML, judged by who asked
    """``text``, which comes from ``where``, if it is a YAML mapping; else MembershipError."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MembershipError(f"{where} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise MembershipError(f"{where} is not a mapping")
    return document


def dump(document: Mapping[str, Any]) -> bytes:
    """``document`` as YAML."""
    return yaml.safe_dump(dict(document), sort_keys=False).encode()

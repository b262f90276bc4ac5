"""The members of a cluster's own etcd, where meshd brings it: one on each node that was named for it, at most three.

A member is its node: it has the node's name, its address and a directory of it. So whatever runs there is that member,
nothing has to be looked up before it can start, and no volume has to follow anybody around.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clustermesh.errors import MembershipError
from clustermesh.invitation import as_mapping, dump

CLIENT_PORT, PEER_PORT, HEALTH_PORT = 23790, 23791, 23792
"""On the node's network, beside a control plane's etcd, below the kernel's own ports; HEALTH_PORT on loopback only."""
QUOTA_BYTES = 2 << 30
COUNTS = (1, 3)
# The common name of the servers' certificate (membership.py): what peers' and nodes' clients never have.
SERVER = "etcd"


@dataclass(frozen=True, slots=True)
class Members:
    """``addresses``: of each node; ``token``: this etcd and no earlier one; ``quota_bytes``: of the store."""

    token: str
    addresses: Mapping[str, str] = field(default_factory=dict)
    quota_bytes: int = QUOTA_BYTES

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients reach them."""
        return tuple(_url(address, CLIENT_PORT) for address in self.addresses.values())


def check(members: Members) -> None:
    """Returns if they can be an etcd; else MembershipError with the reason."""
    if len(members.addresses) not in COUNTS:
        raise MembershipError(
            f"an etcd has 1 or 3 members, not {len(members.addresses)}: two stand still when one is away"
        )


def render(members: Members) -> bytes:
    """``members`` as YAML."""
    return dump(
        {"token": members.token, "members": dict(members.addresses), "quotaBytes": members.quota_bytes}
    )


def parse(where: object, text: bytes) -> Members:
    """What render() wrote; MembershipError names ``where``."""
    document = as_mapping(where, text)
    try:
        found: dict[str, Any] = document["members"]  # Any: YAML
        addresses = {str(node): str(address) for node, address in found.items()}
        return Members(str(document["token"]), addresses, int(document.get("quotaBytes", QUOTA_BYTES)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MembershipError(f"{where}: {error!r}") from error


def command(members: Members, node: str, certificates: Path, data: Path, program: str) -> list[str]:
    """How ``program`` (an etcd from 3.4 on) is the member on ``node``.

    ``certificates``: the directory ``etcd`` of membership.py. ``data``: where it keeps the store, in a directory of its own.

    Raises:
        MembershipError: ``node`` was not named.
    """
    if node not in members.addresses:
        raise MembershipError(f"node {node} is no member: {', '.join(members.addresses)} are")
    address = members.addresses[node]
    certificate, key, authority = (certificates / name for name in ("etcd.crt", "etcd.key", "ca.crt"))
    everybody = ",".join(f"{name}={_url(each, PEER_PORT)}" for name, each in members.addresses.items())
    options = {
        "name": node,
        "data-dir": data / members.token,
        "initial-cluster-token": members.token,
        "initial-cluster": everybody,
        "initial-cluster-state": "new",
        "initial-advertise-peer-urls": _url(address, PEER_PORT),
        "listen-peer-urls": _url(address, PEER_PORT),
        "advertise-client-urls": _url(address, CLIENT_PORT),
        "listen-client-urls": f"{_url(address, CLIENT_PORT)},{_url('127.0.0.1', CLIENT_PORT)}",
        "listen-metrics-urls": f"http://127.0.0.1:{HEALTH_PORT}",
        "client-cert-auth": "true",
        "cert-file": certificate,
        "key-file": key,
        "trusted-ca-file": authority,
        "peer-client-cert-auth": "true",
        "peer-cert-file": certificate,
        "peer-key-file": key,
        "peer-trusted-ca-file": authority,
        # The same authority signs those who may read: none of them is a member.
        "peer-cert-allowed-cn": SERVER,
        # A second way in, over HTTP, with users of its own kind: nobody needs it.
        "enable-grpc-gateway": "false",
        "quota-backend-bytes": members.quota_bytes,
        # Readers that were away for less resume; for longer, they list.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        # A member that comes back after long does not unseat the leader.
        "pre-vote": "true",
        "experimental-initial-corrupt-check": "true",
        "logger": "zap",
    }
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def _url(address: str, port: int) -> str:
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"

"""Who may do what in an etcd of the lab, by the common name of the client's certificate.

``admin-CLUSTER`` (this cluster's nodes) everything; ``remote-NAME`` (nodes of other clusters) may read what is shared, and
nothing else. Set through etcd's JSON gateway, which needs no client library, before anybody else connects.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterable
from http.client import HTTPException, HTTPSConnection
from typing import Any

from meshd.kernel.netns import Netns
from meshd.lab.etcd import CLIENT_PORT
from meshd.lab.layout import Cluster, Places
from meshd.lab.record import LabError

TIMEOUT_S = 10.0
# Everything that clusters share is below this prefix (clustermesh wire format); the end is its last byte plus one.
SHARED, SHARED_END = b"cilium/", b"cilium0"
READ = 0


def restrict(places: Places, cluster: Cluster, readers: Iterable[str]) -> None:
    """Makes users of ``cluster``'s etcd and turns its access control on; ``readers``: names of the other clusters.

    Raises:
        LabError: etcd refuses, or does not answer.
    """
    steps = [*_user(f"admin-{cluster.name}", "root"), *_user("root", "root")]
    steps.insert(0, ("role/add", {"name": "root"}))
    steps += [
        ("role/add", {"name": "remote"}),
        ("role/grant", {"name": "remote", "perm": _may_read_shared()}),
    ]
    for reader in readers:
        steps += _user(f"remote-{reader}", "remote")
    steps.append(("enable", {}))
    with Netns.open(places.etcd_netns(cluster.name)) as netns:
        netns.run(lambda: _ask(places, cluster, steps))


def _user(name: str, role: str) -> list[tuple[str, dict[str, Any]]]:
    # Without a password nobody can log in as this user: only a certificate makes one.
    return [
        ("user/add", {"name": name, "options": {"no_password": True}}),
        ("user/grant", {"user": name, "role": role}),
    ]


def _may_read_shared() -> dict[str, Any]:
    key, end = (base64.b64encode(text).decode() for text in (SHARED, SHARED_END))
    return {"permType": READ, "key": key, "range_end": end}


def _ask(places: Places, cluster: Cluster, steps: Iterable[tuple[str, dict[str, Any]]]) -> None:
    pki = places.pki(cluster.name)
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / f"admin-{cluster.name}.crt", pki / f"admin-{cluster.name}.key")
    connection = HTTPSConnection(str(cluster.etcd.v4), CLIENT_PORT, context=context, timeout=TIMEOUT_S)
    try:
        for path, body in steps:
            connection.request("POST", f"/v3/auth/{path}", json.dumps(body))
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise LabError(f"etcd of {cluster.name} refuses auth/{path}: {said}")
    except (OSError, HTTPException) as error:
        raise LabError(f"etcd of {cluster.name} cannot be set up: {error}") from error
    finally:
        connection.close()

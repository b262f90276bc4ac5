"""``meshctl clustermesh pin`` and ``relearn``: what a peer named first is stated from now on, or learned once more."""

from __future__ import annotations

import argparse
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from clustermesh import pin_file
from clustermesh.errors import ClustermeshError
from clustermesh.pin import KEY, Pin
from meshd.api.v1 import cluster_pb2, status_pb2
from meshd.api.v1.cluster_pb2_grpc import ClusterServiceStub
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.ctl.connection import connected


def pin(options: argparse.Namespace) -> int:
    """Writes what was learned into the peer's file; 1 if nothing was, or it cannot be written."""
    name = options.cluster
    with connected(options) as channel:
        request = cluster_pb2.GetClusterRequest(name=name)
        peer = ClusterServiceStub(channel).GetCluster(request, timeout=options.timeout).cluster.peer
        answer = StatusServiceStub(channel).GetConfig(status_pb2.GetConfigRequest(), timeout=options.timeout)
    if peer.pin_origin == cluster_pb2.PIN_ORIGIN_STATED:
        print(f"the pin of {name} is stated in its file already")
        return 0
    if peer.pin_origin != cluster_pb2.PIN_ORIGIN_LEARNED:
        print(f"meshctl: nothing was learned of {name} yet: its lists name no node", file=sys.stderr)
        return 1
    found = pin_of(peer)
    if options.print:
        print(pin_file.render(found).decode(), end="")
        return 0
    config: dict[str, Any] = yaml.safe_load(answer.yaml) or {}  # Any: YAML of an agent of any version
    path = Path(str((config.get("clustermesh") or {}).get("peers") or "")) / name
    try:
        pin_file.state(path, name, found)
    except (ClustermeshError, OSError) as error:
        text = pin_file.render(found).decode().rstrip()
        print(f"meshctl: {error}; where the file comes from, add\n{text}", file=sys.stderr)
        return 1
    networks = ", ".join(peer.pin_networks)
    print(f"{path} states {KEY} now: {name} has id {peer.pin_cluster_id} and nothing but {networks}")
    return 0


def pin_of(peer: cluster_pb2.Peer) -> Pin:
    """What the agent holds ``peer`` to."""
    networks = tuple(ip_network(each) for each in peer.pin_networks)
    return Pin(peer.pin_cluster_id, networks, is_learned=peer.pin_origin == cluster_pb2.PIN_ORIGIN_LEARNED)


def relearn(options: argparse.Namespace) -> int:
    """Says whether anything was forgotten; nothing is no failure."""
    with connected(options) as channel:
        request = cluster_pb2.RelearnPinRequest(name=options.cluster)
        answer = ClusterServiceStub(channel).RelearnPin(request, timeout=options.timeout)
    if answer.was_learned:
        print(
            f"what {options.cluster} named first is forgotten on this node: its next list with nodes is its pin"
        )
    else:
        print(f"nothing was learned of {options.cluster} on this node")
    return 0

"""``meshctl mesh doctor``: asks the agent, then looks at the files and etcds that its configuration names."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import grpc
import yaml

from clustermesh import doctor
from clustermesh.addresses import Network
from clustermesh.examination import Files, examine
from clustermesh.finding import as_documents, as_table, is_wrong, ordered
from clustermesh.snapshot import Etcd, Snapshot
from meshd import __version__
from meshd.api.v1 import cluster_pb2, node_pb2, status_pb2
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.ctl.clustermesh.pin import pin_of
from meshd.ctl.connection import connected
from meshd.ctl.lists import all_clusters, all_nodes
from meshd.ctl.mesh_checks import Known, findings
from meshd.ctl.output import show_object


def run(options: argparse.Namespace) -> int:
    """Prints what is found; 1 if anything is wrong."""
    looks = not (options.server or options.no_files)
    with connected(options) as channel:
        known = ask(channel, options.timeout)
        found, peers = findings(known), [one.name for one in known.clusters if not one.local]
        if looks:
            snapshot = asyncio.run(examine(files(channel, options.timeout, known)))
            later = all_clusters(channel, options.timeout)
            found += doctor.findings(heard(snapshot, known.clusters, later))
    found = ordered(found)
    if options.output == "json":
        show_object({"cluster": known.status.cluster, "findings": as_documents(found)}, options.output)
    else:
        whom = f"{known.status.node} of {known.status.cluster}, peers: {', '.join(peers) or 'none'}"
        print(as_table(found, f"{whom}{'' if looks else ' (files and etcds were not looked at)'}"))
    return 1 if is_wrong(found) else 0


def ask(channel: grpc.Channel, timeout_s: float) -> Known:
    """All that the agent knows of the mesh."""
    status = StatusServiceStub(channel).GetStatus(status_pb2.GetStatusRequest(), timeout=timeout_s)
    clusters, nodes = all_clusters(channel, timeout_s), all_nodes(channel, timeout_s)
    return Known(status, tuple(clusters), tuple(nodes), __version__)


def files(channel: grpc.Channel, timeout_s: float, known: Known) -> Files:
    """Where the agent's configuration says that they are."""
    answer = StatusServiceStub(channel).GetConfig(status_pb2.GetConfigRequest(), timeout=timeout_s)
    config: Mapping[str, Any] = yaml.safe_load(answer.yaml) or {}  # Any: YAML of an agent of any version
    mesh = config.get("clustermesh") or {}
    return Files(
        known.status.cluster,
        int(config.get("clusterId") or 0),
        _path(mesh.get("etcd")),
        _path(mesh.get("peers")),
        networks_of(known.status.cluster, known.nodes),
        int(mesh.get("maxConnectedClusters") or 255),
    )


def networks_of(cluster: str, nodes: Sequence[node_pb2.Node]) -> tuple[Network, ...]:
    """The pod CIDRs of ``cluster``."""
    cidrs = dict.fromkeys(cidr for node in nodes if node.cluster == cluster for cidr in node.pod_cidrs)
    return tuple(ip_network(cidr) for cidr in cidrs)


def heard(
    snapshot: Snapshot, before: Sequence[cluster_pb2.Cluster], after: Sequence[cluster_pb2.Cluster]
) -> Snapshot:
    """``snapshot`` with when the agent heard the last heartbeats, where none came while we looked, and what it learned of
    peers that nobody pinned."""
    ages = {one.name: one.peer.heartbeat_age_seconds for one in before if _has_heard(one)}
    later = {one.name: one.peer.heartbeat_age_seconds for one in after if _has_heard(one)}

    learned = {
        one.name: pin_of(one.peer) for one in after if one.peer.pin_origin == cluster_pb2.PIN_ORIGIN_LEARNED
    }

    def add(etcd: Etcd) -> Etcd:
        etcd = replace(etcd, pin=learned.get(etcd.cluster, etcd.pin)) if not etcd.is_own else etcd
        age_s = later.get(etcd.cluster)
        same = age_s is not None and etcd.cluster in ages and ages[etcd.cluster] <= age_s
        return replace(etcd, heard_s=age_s) if same else etcd

    return replace(snapshot, etcds=tuple(add(each) for each in snapshot.etcds))


def _has_heard(one: cluster_pb2.Cluster) -> bool:
    return one.peer.HasField("heartbeat_age_seconds")


def _path(text: object) -> Path | None:
    return Path(str(text)) if text else None

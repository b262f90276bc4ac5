"""One real meshd for each node: its configuration, how it is run, and what it says of itself over gRPC."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import yaml

from meshd.lab.layout import Cluster, Node, Places
from meshd.lab.processes import Program
from meshd.lab.record import replace_file
from meshd.lab.spec import LabSpec


def write_config(places: Places, cluster: Cluster, node: Node, spec: LabSpec) -> Path:
    """The configuration of the node's meshd (``meshd/config.py``); everything it names is the node's own."""
    directory = places.node(node)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "config.yaml"
    config = {
        "nodeName": node.name,
        "clusterName": cluster.name,
        "clusterId": cluster.id,
        "zone": cluster.name,
        "nodeAddresses": [str(address) for address in node.fabric],
        "cgroup": str(places.node_cgroup(node)),
        "bpffs": str(places.bpffs(node) / "meshd"),
        "runDir": str(places.socket(node).parent),
        "stateDir": str(places.state / "nodes" / node.name),
        "manifests": str(places.manifests(cluster.name)),
        "cni": {"podCidrs": [str(cidr) for cidr in node.pod_cidrs], "socket": str(places.cni_socket(node))},
        "podNetwork": {"routing": spec.routing},
        "clustermesh": {
            "etcd": str(places.etcd_client(cluster.name)),
            "peers": str(places.peers(cluster.name)),
            **(msgspec.to_builtins(spec.leases) if spec.leases is not None else {}),
        },
        # Small maps: four and more agents share one machine, and a lab has few services.
        "maps": {"frontends": 4096, "slots": 65536, "members": 32768, "affinity": 4096, "connected": 16384},
    }
    replace_file(path, yaml.safe_dump(config, sort_keys=False).encode())
    return path


def program(places: Places, node: Node) -> Program:
    """How the meshd of ``node`` is run: in the node's network namespace, in this mount namespace."""
    meshd = Path(sys.executable).with_name("meshd")
    return Program(
        f"meshd of {node.name}",
        [str(meshd), "--config", str(places.node(node) / "config.yaml")],
        places.agent_cgroup(node),
        places.node_netns(node),
        places.agent_log(node),
        {},
    )

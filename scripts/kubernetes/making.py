"""Making a site: its network, its clusters, their nodes. What takes long goes on at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from meshd.kernel import cgroup
from scripts.kubernetes import (
    api_server,
    components,
    control_plane,
    hierarchies,
    images,
    layout,
    network,
    node_namespaces,
    node_programs,
)
from scripts.kubernetes.certificates import Authority
from scripts.kubernetes.cluster import READY_S, RunningCluster, RunningNode
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.processes import Started, wait
from scripts.kubernetes.site import RunningSite, Say, Wanted

# What is not Kubernetes' and has to be here; the package that Debian has each in.
NEEDED = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "mount": "mount",
}


def make(place: layout.Site, wanted: Wanted, started: Started, say: Say) -> RunningSite:
    """A site whose API servers are ready and whose nodes are registered.

    What was made before a failure stays, for ``removal.remove``.

    Raises:
        SiteError: something is missing here, or did not come up.
    """
    if (missing := absence()) is not None:
        raise SiteError(missing)
    try:
        place.run.mkdir(parents=True)
    except FileExistsError:
        raise SiteError(
            f"there is a site {place.name} already, or what is left of one: down {place.name}"
        ) from None
    (place.run / "netns").mkdir()
    with _timed(say, "network, certificates and images"):
        network.make(place)
        archives = images.write_all(components.directory() / "images")
        clusters = [
            _plan(place.cluster(number), nodes, wanted, started)
            for number, nodes in enumerate(wanted.clusters, 1)
        ]
    with _timed(say, f"API server of {' and '.join(cluster.name for cluster in clusters)}"):
        for cluster in clusters:
            cluster.start_etcd()
            started.start(cluster.control.api_server)
        nodes = [node for cluster in clusters for node in cluster.nodes]
        for node in nodes:
            _make_namespaces(node)
            node.start("containerd")
        for cluster in clusters:
            cluster.wait_api_server()
            started.start(cluster.control.controller_manager)
            started.start(cluster.control.scheduler)
    with _timed(say, f"{len(nodes)} nodes"), ThreadPoolExecutor() as importing:
        # Mostly waiting for the disk, while kubelets start.
        imports = [importing.submit(_import, node, archives) for node in nodes]
        for cluster in clusters:
            _start_nodes(cluster, wanted)
        for each in imports:
            each.result()
    return RunningSite(place, started, clusters)


def absence() -> str | None:
    """What a site cannot be without and is not here, as one phrase; None: all is."""
    if os.geteuid() != 0:
        return "not root"
    missing = [package for program, package in NEEDED.items() if not shutil.which(program)]
    if missing:
        return f"Debian's {', '.join(missing)} not here: make setup"
    return components.absence()


def _plan(place: layout.Cluster, nodes: int, wanted: Wanted, started: Started) -> RunningCluster:
    """Files and namespaces of a cluster; nothing of it runs yet."""
    if not 1 <= place.number <= layout.LAST or not 1 <= nodes <= layout.LAST:
        raise SiteError(f"a site has up to {layout.LAST} clusters of up to {layout.LAST} nodes")
    place.etcd_data.mkdir(parents=True)
    # etcd waits for the disk at every write; in memory a busy disk cannot decide whether a test passes.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(place.etcd_data)], check=True)
    authority = Authority(place.pki, f"{place.site.name}-{place.name}")
    access = network.join_control_plane(place)
    keys = control_plane.make_keys(place, authority, access)
    control_plane.write_clients(place, authority)
    control = control_plane.control_plane(place, keys, access, wanted.pods_v4)
    api_server.write_client(control.server, authority, place.admin, "admin")
    made = [place.node(number) for number in range(1, nodes + 1)]
    for node in made:
        network.join_node(node)
        node_namespaces.make_directories(node)
        node_programs.write_files(node, authority, wanted.proxy or "")
    return RunningCluster(place, control, made, started)


def _make_namespaces(node: RunningNode) -> None:
    """The process that holds the node's mounts and cgroups; it starts in the node's cgroup, whose root that becomes."""
    place = node.place
    program = node_namespaces.holder(place)
    node.started.start(program)
    ready = node_namespaces.ready_file(place)
    wait(f"node {node.name}", ready.exists, [program], READY_S)
    holders = cgroup.processes(program.directory)
    # Version 2 gives controllers only to cgroups whose parents hold no process.
    for directory in hierarchies.make(f"{place.system}/{program.name}", everywhere=True):
        for pid in holders:
            cgroup.move(directory, pid)
    hierarchies.delegate(place.cgroup)


def _import(node: RunningNode, archives: Sequence[Path]) -> None:
    socket = node.place.state / "run" / "containerd" / "containerd.sock"
    wait(f"containerd of {node.name}", socket.exists, [node.programs()["containerd"]], READY_S)
    for archive in archives:
        node.import_image(archive)


def _start_nodes(cluster: RunningCluster, wanted: Wanted) -> None:
    """Returns when all nodes of ``cluster`` are known and have networks for pods."""
    if wanted.proxy is not None:
        cluster.apply(node_programs.PROXY_ROLE)
    for node in cluster.nodes:
        node.start("kubelet")
        if wanted.proxy is not None:
            node.start("kube-proxy")
    names = {node.name for node in cluster.nodes}
    cluster.wait(f"nodes of {cluster.name}", lambda: cluster.registered().keys() == names)


@contextmanager
def _timed(say: Say, what: str) -> Iterator[None]:
    """Says ``what`` and how long it took, when it is done."""
    begun = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begun:.1f} s")

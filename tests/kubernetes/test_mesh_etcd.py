"""A cluster with an etcd of its own becomes part of a mesh, by ``meshctl clustermesh`` alone.

The other cluster is a directory of files, and reads with the certificate that it was invited with.
"""

from __future__ import annotations

import base64
import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from clustermesh import membership
from clustermesh.invitation import Cluster, render_invitation
from scripts.kubernetes import images
from scripts.kubernetes.cluster import RunningCluster, RunningNode
from tests.kubernetes import installing
from tests.netns.runtime import agent_image

# Long: an etcd that is installed, joined and left takes two minutes.
pytestmark = [*installing.ON_NODES, pytest.mark.long]
ROOT = Path(__file__).parents[2]
NAMESPACE = "meshd-system"
OTHER = Cluster(
    "cm-3", 3, (ip_network("10.99.0.0/16"),), ("https://10.210.1.250:23790",), Path("/etc/clustermesh")
)
IN_NAMESPACE = ("-n", NAMESPACE)
AGENT = f"system:serviceaccount:{NAMESPACE}:meshd"

ASK = """
import ssl, sys, urllib.request
url, authority, certificate, key = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.load_cert_chain(certificate, key)
try:
    print(urllib.request.urlopen(url, context=context, timeout=20).read().decode())
except OSError as error:
    print("refused", error)
"""


class Mesh:
    """``cluster`` is cm-1 of a mesh; ``directory`` has the files of cm-2."""

    def __init__(self, cluster: RunningCluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory

    def meshctl(self, action: str, *arguments: str | Path) -> str:
        """What `meshctl clustermesh` says of this cluster; it has to succeed."""
        return installing.clustermesh(self.cluster, action, *arguments)

    def etcd(self) -> Any:  # Any: JSON
        """The only member's pod."""
        (pod,) = self.cluster.get("pods", *IN_NAMESPACE, "-l", "app.kubernetes.io/component=etcd")["items"]
        return pod

    def dump(self, node: RunningNode, directory: Path) -> str:
        """What cm-2 reads of cm-1, from ``node``'s network; or why it does not."""
        file = directory / "peers" / "cm-1"
        words = [sys.executable, "-m", "clustermesh.cli", "dump", "--config", str(file)]
        return node.run("sh", "-c", 'cd "$1" && shift && exec "$@" 2>&1', "sh", ROOT, *words, check=False)

    def serving(self, node: RunningNode) -> str:
        """The certificate that etcd shows now."""
        address = f"{node.place.addresses.v4.ip}"
        look = f"import ssl; print(ssl.get_server_certificate(('{address}', 23790)))"
        return node.run(sys.executable, "-c", look)


@pytest.fixture(scope="module")
def mesh(nodes_with_image: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """meshd on two nodes, etcd on the first; all of it gone afterwards."""
    cluster = nodes_with_image
    for node in cluster.nodes:
        node.import_image(agent_image.etcd_archive())
    directory = tmp_path_factory.mktemp("cm-2")
    membership.init(directory, Cluster("cm-2", 2, (ip_network("10.98.0.0/16"),), OTHER.endpoints, directory))
    made = Mesh(cluster, directory)
    try:
        said = made.meshctl(
            *("init", "--name", "cm-1", "--id", "1", "--etcd-image", "meshd-etcd:test"),
            *("--network", "10.211.0.0/16", "--network", "fd00:d2:1::/48", "--network", "10.210.0.0/16"),
            *("--network", "fd00:d2::/64", "--etcd-node", cluster.nodes[0].name),
        )
        assert "etcd lets nobody in but this cluster's nodes" in said
        # Also where meshd was there before: agents are told of the mesh.
        action = "upgrade" if installing.is_installed(cluster) else "install"
        done = installing.meshctl(
            cluster, action, *installing.IMAGE, "--without-kube-proxy", "--no-connectivity-test"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield made
    finally:
        gone = installing.meshctl(cluster, "uninstall", "--drop-translated")
        assert gone.returncode == 0, gone.stdout + gone.stderr


@pytest.fixture(scope="module")
def invited(mesh: Mesh) -> Path:
    """The directory of cm-2, which has joined cm-1."""
    file = mesh.directory / "for-cm-2"
    mesh.meshctl("invite", "cm-2", "-o", file)
    done = subprocess.run(
        [sys.executable, "-m", "clustermesh.cli", "join", "--directory", mesh.directory, file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return mesh.directory


def web(cluster: RunningCluster, name: str) -> None:
    """A global service with a pod."""
    labels = {"app": name}
    container = {
        "name": "web",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "exec sleep 3600"],
    }
    service = {"name": name, "namespace": "default", "annotations": {"service.cilium.io/global": "true"}}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        },
    )


def eventually(mesh: Mesh, what: str, holds: Callable[[], bool]) -> None:
    mesh.cluster.wait(what, holds, patience_s=120)


def test_a_cluster_that_was_invited_reads_what_agents_publish(mesh: Mesh, invited: Path) -> None:
    web(mesh.cluster, "web")
    reader = mesh.cluster.nodes[1]

    def published() -> bool:
        (line,) = [each for each in mesh.dump(reader, invited).splitlines() if "default/web" in each] or [""]
        return line.endswith(":80/TCP") and "10.211." in line

    eventually(mesh, "the service is in etcd, with its backend", published)


def test_nobody_reads_without_a_certificate_of_this_cluster(mesh: Mesh, invited: Path) -> None:
    stranger = invited / "peers" / "cm-1"
    forged = mesh.directory / "forged"
    (forged / "peers").mkdir(parents=True)
    # The right authority of the server, and cm-2's own certificate, which cm-1 did not sign.
    text = (
        stranger.read_text()
        .replace("peers/cm-1.crt", "client/admin.crt")
        .replace("peers/cm-1.key", "client/admin.key")
    )
    (forged / "peers" / "cm-1").write_text(text)
    assert "cm-1 (id 1)" in mesh.dump(mesh.cluster.nodes[1], invited)
    assert "cm-1 (id 1)" not in mesh.dump(mesh.cluster.nodes[1], forged)


def test_a_reader_is_no_member(mesh: Mesh, invited: Path, tmp_path: Path) -> None:
    data = mesh.cluster.get("secret", "meshd-etcd", *IN_NAMESPACE)["data"]
    for name, content in data.items():
        (tmp_path / name).write_bytes(base64.b64decode(content))
    node = mesh.cluster.nodes[0]
    url = f"https://{node.place.addresses.v4.ip}:23791/version"

    def asks_as(directory: Path, name: str) -> str:
        files = (tmp_path / "ca.crt", directory / f"{name}.crt", directory / f"{name}.key")
        return node.run(sys.executable, "-c", ASK, url, *map(str, files))

    assert "etcdserver" in asks_as(tmp_path, "etcd")
    assert "refused" in asks_as(invited / "peers", "cm-1")


def test_no_agent_may_read_the_key_that_signs_and_no_pod_has_it(mesh: Mesh) -> None:
    assert mesh.cluster.get("secret", "meshd-authority", *IN_NAMESPACE)["data"]["ca.key"]
    may = mesh.cluster.kubectl(
        "auth", "can-i", "get", "secret/meshd-authority", *IN_NAMESPACE, f"--as={AGENT}", check=False
    )
    assert may.strip() == "no"
    pods = mesh.cluster.get("pods", "-A")["items"]
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods
        for volume in pod["spec"].get("volumes", ())
        if "secret" in volume
    }
    assert mounted >= {"meshd-etcd", "meshd-clustermesh", "meshd-peers"}
    assert "meshd-authority" not in mounted


def test_agents_see_a_peer_that_was_joined_and_one_that_was_left(mesh: Mesh, tmp_path: Path) -> None:
    other = tmp_path / "cm-3"
    membership.init(other, OTHER)
    file = tmp_path / "for-cm-1"
    file.write_bytes(render_invitation(membership.invite(other, "cm-1", datetime.timedelta(days=40))))
    first = [pod["metadata"]["uid"] for pod in agents(mesh)]

    def known(expected: bool) -> bool:
        lists = [
            mesh.cluster.kubectl(
                "exec", *IN_NAMESPACE, pod["metadata"]["name"], "--", "meshctl", "cluster", "list"
            )
            for pod in agents(mesh)
        ]
        return len(lists) == len(mesh.cluster.nodes) and all(("cm-3" in each) is expected for each in lists)

    mesh.meshctl("join", file)
    eventually(mesh, "every agent knows cm-3", lambda: known(expected=True))
    assert "peer cm-3, id 3: 10.99.0.0/16" in mesh.meshctl("status")
    mesh.meshctl("leave", "cm-3")
    eventually(mesh, "no agent knows cm-3", lambda: known(expected=False))
    assert [pod["metadata"]["uid"] for pod in agents(mesh)] == first


def agents(mesh: Mesh) -> list[Any]:  # Any: JSON
    found: list[Any] = mesh.cluster.get("pods", *IN_NAMESPACE, "-l", installing.AGENTS)["items"]
    return found


def test_etcd_shows_new_certificates_and_is_not_restarted(mesh: Mesh, invited: Path) -> None:
    node = mesh.cluster.nodes[0]
    before, pod = mesh.serving(node), mesh.etcd()
    mesh.meshctl("rotate", "certificates")
    eventually(mesh, "etcd shows another certificate", lambda: mesh.serving(node) != before)
    now = mesh.etcd()
    assert now["metadata"]["uid"] == pod["metadata"]["uid"]
    assert [each["restartCount"] for each in now["status"]["containerStatuses"]] == [
        each["restartCount"] for each in pod["status"]["containerStatuses"]
    ]
    web(mesh.cluster, "after")
    eventually(
        mesh, "agents write with theirs", lambda: "default/after" in mesh.dump(mesh.cluster.nodes[1], invited)
    )


def test_a_member_that_is_replaced_has_what_it_had(mesh: Mesh, invited: Path) -> None:
    assert "default/web" in mesh.dump(mesh.cluster.nodes[1], invited)
    uid = mesh.etcd()["metadata"]["uid"]
    mesh.cluster.kubectl("delete", "pod", mesh.etcd()["metadata"]["name"], *IN_NAMESPACE, "--grace-period=1")
    eventually(
        mesh,
        "cm-2 reads from another pod",
        lambda: (
            all(pod["metadata"]["uid"] != uid for pod in etcds(mesh))
            and "default/web" in mesh.dump(mesh.cluster.nodes[1], invited)
        ),
    )


def etcds(mesh: Mesh) -> list[Any]:  # Any: JSON
    found: list[Any] = mesh.cluster.get("pods", *IN_NAMESPACE, "-l", "app.kubernetes.io/component=etcd")[
        "items"
    ]
    return found


def test_who_is_left_may_not_read_any_more(mesh: Mesh, invited: Path) -> None:
    assert "cm-1 (id 1)" in mesh.dump(mesh.cluster.nodes[1], invited)
    mesh.meshctl("leave", "cm-2")
    assert "cm-1 (id 1)" not in mesh.dump(mesh.cluster.nodes[1], invited)

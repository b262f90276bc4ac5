"""``meshctl clustermesh`` against a real API server without nodes: what it writes and refuses, and what agents are told."""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustermesh import membership
from clustermesh.invitation import Cluster, render_invitation
from meshd.ctl.clustermesh import secrets
from meshd.ctl.errors import CtlError
from meshd.ctl.main import main
from meshd.kubeapi import kubeconfig
from meshd.kubeapi.client import Client
from tests.kubernetes.api_server import ApiServerAlone

NAMESPACE = "meshd-system"
IN_NAMESPACE = ("-n", NAMESPACE)
NODES = {"one": "192.0.2.11", "two": "192.0.2.12", "three": "192.0.2.13"}
KERNEL = {"kernelVersion": "6.1.0-28-amd64"}
LABEL = "node-restriction.kubernetes.io/meshd-etcd"
CM_1 = ("--name", "cm-1", "--id", "1", "--network", "10.1.0.0/16")
OTHER = Cluster(
    "cm-2", 2, (ip_network("10.2.0.0/16"),), ("https://198.51.100.1:23790",), Path("/etc/clustermesh")
)


class Mesh:
    """What is asked of the API server, by meshctl and by kubectl."""

    def __init__(self, server: ApiServerAlone) -> None:
        self.server = server

    def meshctl(self, *arguments: str | Path) -> tuple[int, str]:
        """Status and all that is said; in this process, because starting one takes longer than what is asked."""
        first, second, *rest = map(str, arguments)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main([first, second, f"--kubeconfig={self.server.admin}", *rest])
        return status, said.getvalue()

    def clustermesh(self, *arguments: str | Path) -> str:
        """What it says; it has to succeed."""
        status, said = self.meshctl("clustermesh", *arguments)
        assert status == 0, said
        return said

    def refused(self, *arguments: str | Path) -> str:
        """Why it did not do it."""
        status, said = self.meshctl("clustermesh", *arguments)
        assert status in {1, 2}, said
        return said

    def get(self, *what: str) -> Any:  # Any: JSON
        return json.loads(self.server.kubectl("get", *what, *IN_NAMESPACE, "-o", "json"))

    def data(self, secret: str) -> dict[str, bytes]:
        found = self.get("secret", secret).get("data") or {}
        return {name: base64.b64decode(text) for name, text in found.items()}

    def declared(self) -> Any:  # Any: YAML
        return yaml.safe_load(self.get("configmap", "meshd-etcd")["data"]["readers.yaml"])

    def versions(self) -> set[tuple[str, str]]:
        """Names of all objects of the mesh, and which version of them it is."""
        items = self.get("secret,configmap,statefulset", "-l", "app.kubernetes.io/name=meshd")["items"]
        return {(each["metadata"]["name"], each["metadata"]["resourceVersion"]) for each in items}

    def labelled(self) -> set[str]:
        nodes = self.server.kubectl("get", "nodes", "-l", f"{LABEL}=member", "-o", "name").split()
        return {name.removeprefix("node/") for name in nodes}


@pytest.fixture(scope="module")
def server(api_server: ApiServerAlone) -> ApiServerAlone:
    """With three Nodes that no kubelet speaks for."""
    for name, address in NODES.items():
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        status = {"addresses": [{"type": "InternalIP", "address": address}], "nodeInfo": KERNEL}
        api_server.kubectl("create", "-f", "-", content=json.dumps(node))
        api_server.kubectl(
            "patch", "node", name, "--subresource=status", "-p", json.dumps({"status": status})
        )
    return api_server


@pytest.fixture
def mesh(server: ApiServerAlone) -> Iterator[Mesh]:
    """Without anything of a mesh."""
    yield Mesh(server)
    server.kubectl("label", "node", "--all", f"{LABEL}-")
    kinds = "secret,configmap,statefulset,daemonset,service,poddisruptionbudget"
    server.kubectl("delete", kinds, "--all", *IN_NAMESPACE, "--ignore-not-found")


@pytest.fixture
def made(mesh: Mesh) -> Mesh:
    """cm-1, with an etcd on one node that nobody starts."""
    mesh.clustermesh("init", *CM_1, "--etcd-node", "one", "--no-apply")
    return mesh


def invitation(directory: Path, cluster: Cluster = OTHER) -> Path:
    """Of another cluster, for cm-1."""
    membership.init(directory / cluster.name, cluster)
    file = directory / f"of-{cluster.name}"
    valid = datetime.timedelta(days=40)
    file.write_bytes(render_invitation(membership.invite(directory / cluster.name, "cm-1", valid)))
    return file


def test_what_elsewhere_is_files_is_secrets(made: Mesh, tmp_path: Path) -> None:
    cluster = Cluster(
        "cm-1", 1, (ip_network("10.1.0.0/16"),), ("https://192.0.2.11:23790",), Path("/etc/clustermesh")
    )
    membership.init(tmp_path, cluster)
    for secret, directory in (
        ("meshd-etcd", "etcd"),
        ("meshd-clustermesh", "client"),
        ("meshd-authority", "authority"),
    ):
        assert set(made.data(secret)) == {path.name for path in (tmp_path / directory).iterdir()}
    assert made.data("meshd-clustermesh")["etcd.yaml"] == (tmp_path / "client" / "etcd.yaml").read_bytes()
    said = yaml.safe_load(made.get("configmap", "meshd-etcd")["data"]["members.yaml"])
    assert said["members"] == {"one": "192.0.2.11"}
    assert made.labelled() == {"one"}


def test_init_may_be_repeated_and_is_of_one_cluster(made: Mesh) -> None:
    before = made.versions()
    said = made.clustermesh("init", *CM_1, "--etcd-node", "one", "--no-apply")
    assert "cm-1 is there already" in said
    assert "has another cluster: cm-1, id 1" in made.refused(
        *(
            "init",
            "--name",
            "cm-9",
            "--id",
            "9",
            "--network",
            "10.9.0.0/16",
            "--etcd-node",
            "one",
            "--no-apply",
        )
    )
    # Nor is the etcd on another node one and the same.
    assert "has another cluster" in made.refused("init", *CM_1, "--etcd-node", "two", "--no-apply")
    assert made.versions() == before
    assert made.labelled() == {"one"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--etcd-node", "nine"), "there is no node nine: one, three, two are there"),
        (("--etcd-node", "one", "--etcd-node", "two"), "an etcd has 1 or 3 members, not 2"),
        ((), "where is etcd to run? Name one node, or three, with --etcd-node (of one, three, two)"),
        (("--endpoint", "https://192.0.2.1:2379", "--etcd-node", "one"), "the etcd is somebody else's"),
        (("--endpoint", "http://192.0.2.1:2379"), "endpoints: expected https"),
    ],
)
def test_an_etcd_that_cannot_be_is_refused_and_nothing_is_written(
    mesh: Mesh, words: tuple[str, ...], reason: str
) -> None:
    assert reason in mesh.refused("init", *CM_1, *words)
    assert mesh.versions() == set()


def test_nodes_that_have_the_label_are_members_and_no_others_keep_it(mesh: Mesh) -> None:
    mesh.server.kubectl("label", "node", *NODES, f"{LABEL}=member")
    mesh.clustermesh("init", *CM_1, "--no-apply")
    said = yaml.safe_load(mesh.get("configmap", "meshd-etcd")["data"]["members.yaml"])
    assert said["members"] == NODES
    mesh.server.kubectl("delete", "secret,configmap", "--all", *IN_NAMESPACE)
    mesh.clustermesh("init", *CM_1, "--etcd-node", "two", "--no-apply")
    assert mesh.labelled() == {"two"}


def test_the_etcd_is_applied_with_as_many_members_as_there_are_nodes(mesh: Mesh) -> None:
    nodes = [word for name in NODES for word in ("--etcd-node", name)]
    said = mesh.refused(
        "init", *CM_1, *nodes, "--etcd-image", "registry.example/meshd-etcd:1", "--timeout", "1"
    )
    # There is nobody who would start it.
    assert "after 1 s no etcd of meshd-system says that it is as declared; it goes on without us" in said
    spec = mesh.get("statefulset", "meshd-etcd")["spec"]
    assert spec["replicas"] == 3
    images = {each["image"] for each in spec["template"]["spec"]["containers"]}
    assert images == {"registry.example/meshd-etcd:1"}


def test_without_a_mesh_every_command_says_what_to_do_first(mesh: Mesh, tmp_path: Path) -> None:
    for words in (("join", invitation(tmp_path)), ("leave", "cm-2"), ("status",), ("rotate", "certificates")):
        assert "has no part of a mesh: meshctl clustermesh init --kubernetes" in mesh.refused(*words)


def test_a_peer_comes_and_goes_with_all_its_files_and_its_pin(made: Mesh, tmp_path: Path) -> None:
    made.clustermesh("join", invitation(tmp_path))
    third = Cluster("cm-3", 3, (ip_network("10.3.0.0/16"),), OTHER.endpoints, OTHER.seen_as)
    made.clustermesh("join", invitation(tmp_path, third))
    found = made.data("meshd-peers")
    assert set(found) == {
        f"{name}{suffix}" for name in ("cm-2", "cm-3") for suffix in ("", ".crt", ".key", ".ca.crt")
    }
    peer = yaml.safe_load(found["cm-2"])
    assert peer["meshd.io/pin"] == {"cluster-id": 2, "networks": ["10.2.0.0/16"]}
    assert peer["key-file"] == "/etc/clustermesh/peers/cm-2.key"
    # That cm-2 may not read any more, nobody says here.
    made.refused("leave", "cm-2", "--timeout", "1")
    assert {name for name in made.data("meshd-peers") if "cm-2" in name} == set()
    assert "cm-3" in made.data("meshd-peers")


def test_an_invitation_that_does_not_fit_changes_nothing(made: Mesh, tmp_path: Path) -> None:
    before = made.versions()
    taken = Cluster("cm-2", 2, (ip_network("10.1.7.0/24"),), OTHER.endpoints, OTHER.seen_as)
    assert "10.1.7.0/24 of cm-2 overlaps 10.1.0.0/16 of cm-1" in made.refused(
        "join", invitation(tmp_path, taken)
    )
    assert made.versions() == before


def test_readers_are_declared_for_the_keepers_of_etcd(made: Mesh, tmp_path: Path) -> None:
    assert made.declared() == {"cluster": "cm-1", "generation": 1, "readers": []}
    file = tmp_path / "for-cm-2"
    # Nobody says that it is done, so there is no invitation yet; what was declared stands.
    assert "no etcd of meshd-system says" in made.refused("invite", "cm-2", "-o", file, "--timeout", "1")
    assert not file.exists()
    assert made.declared() == {"cluster": "cm-1", "generation": 2, "readers": ["cm-2"]}
    made.refused("invite", "cm-2", "-o", file, "--timeout", "1")
    assert made.declared()["generation"] == 2
    made.refused("leave", "cm-2", "--timeout", "1")
    assert made.declared() == {"cluster": "cm-1", "generation": 3, "readers": []}


def test_agents_are_told_of_the_mesh_by_install_and_what_the_user_says_counts_more(
    made: Mesh, tmp_path: Path
) -> None:
    def told(action: str, *words: str | Path) -> Any:  # Any: YAML
        status, text = made.meshctl(
            "kube", action, "--no-wait", "--api-server", "10.0.0.2:6443", "--accept-other-cni", *words
        )
        assert status == 0, text
        return yaml.safe_load(made.get("configmap", "meshd")["data"]["meshd.yaml"])

    said = told("install")
    assert (said["clusterName"], said["clusterId"]) == ("cm-1", 1)
    assert said["clustermesh"] == {
        "etcd": "/etc/clustermesh/client/etcd.yaml",
        "peers": "/etc/clustermesh/peers",
    }
    file = tmp_path / "meshd.yaml"
    file.write_text("clustermesh: {electionLeaseS: 20}\n")
    assert told("upgrade", "--config", file)["clustermesh"]["electionLeaseS"] == 20
    assert told("upgrade")["clustermesh"]["peers"] == "/etc/clustermesh/peers"
    # There is no controller that would count the pods of the DaemonSet that cleans.
    _, said = made.meshctl("kube", "uninstall", "--no-wait")
    assert "peers will have to be invited again" in said


async def test_what_somebody_else_changed_meanwhile_is_not_overwritten(made: Mesh, tmp_path: Path) -> None:
    async with Client(kubeconfig.load(made.server.admin)) as client:
        taken = await secrets.take_out(client, NAMESPACE, tmp_path)
        membership.rotate_certificates(taken.directory)
        made.server.kubectl("annotate", "secret", "meshd-etcd", *IN_NAMESPACE, "a=b")
        before = made.versions()
        with pytest.raises(CtlError, match="meshd-system/meshd-etcd was changed by somebody else meanwhile"):
            await secrets.put_back(client, NAMESPACE, taken)
        assert made.versions() == before

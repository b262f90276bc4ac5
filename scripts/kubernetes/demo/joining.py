"""Making two clusters one mesh, with the commands that a user has: an etcd each, meshd, invitations both ways, Secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import yaml

from scripts.image import __main__ as building
from scripts.kubernetes.demo.commands import call
from scripts.kubernetes.demo.mesh import MESHCTL, SYSTEM, TIMEOUT, Member, Mesh
from scripts.kubernetes.demo.objects import Object

TAG = "demo"
IMAGE, ETCD_IMAGE = f"meshd:{TAG}", f"meshd-etcd:{TAG}"
ETCD = "meshd-etcd"
ETCD_PORT = 2379
# Where agents find the Secrets' files (deploy/kubernetes/base/daemon-set.yaml).
SEEN_AS = Path("/etc/clustermesh")
ROOT = Path(__file__).parents[3]
NAMESPACE_FILE = ROOT / "deploy/kubernetes/base/namespace.yaml"


def archives() -> list[Path]:
    """The images of this tree: the agent's, which clients and backends have too, and the etcd's."""
    output = building.BUILD / f"{building.NAME}-{TAG}.tar"
    building.build(output, TAG)
    return [output, building.etcd_beside(output)]


async def import_images(mesh: Mesh, images: Sequence[Path]) -> None:
    """Every node has ``images``."""

    def import_all(member: Member) -> None:
        for node in member.running.nodes:
            for image in images:
                node.import_image(image)

    await asyncio.gather(*(asyncio.to_thread(import_all, member) for member in mesh.members))


async def start_etcds(mesh: Mesh) -> None:
    """Every cluster has its files and an etcd that serves."""

    async def start(member: Member) -> None:
        await clustermesh(
            mesh,
            member,
            *("init", "--name", member.name, "--id", str(member.number)),
            *(f"--network={network}" for network in networks(member)),
            *(f"--endpoint={endpoint(member)}", f"--seen-as={SEEN_AS}"),
        )
        await member.kubectl("apply", f"--filename={NAMESPACE_FILE}")
        await member.apply(secret("meshd-etcd", files(mesh, member) / "etcd"), etcd(member))
        await member.kubectl("rollout", "status", f"statefulset/{ETCD}", f"--namespace={SYSTEM}", TIMEOUT)
        await clustermesh(mesh, member, "restrict")

    await asyncio.gather(*map(start, mesh.members))


async def join(mesh: Mesh) -> None:
    """Every cluster invites every other, and joins it."""
    for host in mesh.members:
        for guest in mesh.members:
            if guest is not host:
                invitation = files(mesh, host) / f"for-{guest.name}"
                await clustermesh(mesh, host, "invite", guest.name, f"--output={invitation}")
                await clustermesh(mesh, guest, "join", str(invitation))


async def install(mesh: Mesh) -> None:
    """meshd is on every node, and reads its cluster's etcd and its peers'."""

    async def put(member: Member) -> None:
        below = files(mesh, member)
        await member.apply(
            secret("meshd-clustermesh", below / "client"), secret("meshd-peers", below / "peers")
        )
        config = below / "meshd.yaml"
        options = {"etcd": str(SEEN_AS / "client/etcd.yaml"), "peers": str(SEEN_AS / "peers")}
        config.write_text(
            yaml.safe_dump({"clusterName": member.name, "clusterId": member.number, "clustermesh": options})
        )
        await call(
            *(*MESHCTL, "kube", "install", "--image", IMAGE, "--config", config, "--without-kube-proxy"),
            *("--no-wait", "--kubeconfig", member.running.admin),
        )

    await asyncio.gather(*map(put, mesh.members))


def networks(member: Member) -> list[str]:
    """In which pods and nodes of ``member`` have addresses (layout.py)."""
    place = member.running.place
    return [*map(str, place.pods), f"10.210.{place.number}.0/24", f"fd00:d2::{place.number}:0/112"]


def endpoint(member: Member) -> str:
    """Where peers reach its etcd: its first node."""
    return f"https://{member.running.place.node(1).addresses.v4.ip}:{ETCD_PORT}"


def files(mesh: Mesh, member: Member) -> Path:
    """What `meshctl clustermesh` makes of ``member``."""
    return mesh.site.place.state / "mesh" / member.name


async def clustermesh(mesh: Mesh, member: Member, *words: str) -> None:
    """`meshctl clustermesh` where nodes are reached from: in the world outside."""
    command = (*mesh.site.enter_outside, *MESHCTL, "clustermesh", *words)
    await call(*command, f"--directory={files(mesh, member)}")


def secret(name: str, directory: Path) -> Object:
    """The files of ``directory`` as a Secret."""
    content = {path.name: path.read_text() for path in sorted(directory.iterdir())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": SYSTEM},
        "stringData": content,
    }


def etcd(member: Member) -> Object:
    """One member on the first node's network, on a disk of that node."""
    labels = {"app": ETCD}
    command = [
        *("etcd", "--data-dir=/data/etcd", f"--listen-client-urls=https://0.0.0.0:{ETCD_PORT}"),
        *(f"--advertise-client-urls={endpoint(member)}", "--listen-peer-urls=http://127.0.0.1:2380"),
        *("--client-cert-auth", "--trusted-ca-file=/pki/ca.crt", "--cert-file=/pki/etcd.crt"),
        *("--key-file=/pki/etcd.key", "--logger=zap"),
    ]
    container = {
        "name": "etcd",
        "image": ETCD_IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "readinessProbe": {"tcpSocket": {"port": ETCD_PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "pki", "mountPath": "/pki"}, {"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "hostNetwork": True,
        "nodeName": member.running.place.node(1).name,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": "pki", "secret": {"secretName": ETCD}},
            {"name": "data", "hostPath": {"path": "/var/lib/meshd/etcd", "type": "DirectoryOrCreate"}},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": ETCD, "namespace": SYSTEM},
        "spec": {
            "serviceName": ETCD,
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }

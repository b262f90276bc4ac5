"""Making two clusters one mesh, with the commands that a user has (docs/join-clusters.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from scripts.image import __main__ as building
from scripts.kubernetes.demo.mesh import TIMEOUT, Member, Mesh

TAG = "demo"
IMAGE, ETCD_IMAGE = f"meshd:{TAG}", f"meshd-etcd:{TAG}"


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


async def begin(mesh: Mesh) -> None:
    """Every cluster is one that could be in a mesh, and has an etcd for that on its first node."""

    async def begin_with(member: Member) -> None:
        await member.meshctl(
            *("clustermesh", "init", f"--name={member.name}", f"--id={member.number}"),
            *(f"--etcd-node={member.running.nodes[0].name}", f"--etcd-image={ETCD_IMAGE}"),
            *(f"--network={network}" for network in networks(member)),
        )

    await asyncio.gather(*map(begin_with, mesh.members))


async def join(mesh: Mesh) -> None:
    """Every cluster invites every other, and joins it."""

    async def join_with(host: Member, guest: Member) -> None:
        invitation = await host.meshctl("clustermesh", "invite", guest.name, "--output=-")
        await guest.meshctl("clustermesh", "join", "-", content=invitation)

    # One after the other for who joins: what it knows of its peers is one object.
    for guest in mesh.members:
        for host in mesh.members:
            if guest is not host:
                await join_with(host, guest)


async def install(mesh: Mesh) -> None:
    """meshd is on every node."""

    async def put(member: Member) -> None:
        # Not waiting for what follows anyway: nodes that are ready, and backends that every agent knows.
        await member.meshctl("kube", "install", f"--image={IMAGE}", "--without-kube-proxy", "--no-wait")
        await member.kubectl("wait", "--for=condition=Ready", "nodes", "--all", TIMEOUT)

    await asyncio.gather(*map(put, mesh.members))


def networks(member: Member) -> list[str]:
    """In which pods and nodes of ``member`` have addresses (layout.py)."""
    number = member.number
    return [*map(str, member.running.place.pods), f"10.210.{number}.0/24", f"fd00:d2::{number}:0/112"]

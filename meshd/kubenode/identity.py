"""Who this node is: whose addresses its pods get, and its own. Remembered, so that a start needs no API server.

The pod CIDRs of a Node never change (Kubernetes forbids it), but a Node may be deleted and made again with others. Pods that
run here keep the addresses that they have, so what an earlier start took stands until an operator says otherwise.
"""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
import structlog

from meshd.errors import JournalError
from meshd.kubenode.node_object import NodeObject
from meshd.state.journal import sync_directory

log = structlog.get_logger(__name__)

FILE = "node.json"


class Identity(msgspec.Struct, frozen=True):
    """``pod_cidrs`` one of each family at most; ``addresses``: by which other nodes reach this one. ``runtime``: what the
    container runtime says of its version."""

    pod_cidrs: tuple[str, ...]
    addresses: tuple[str, ...]
    runtime: str = ""


def identity_of(node: NodeObject) -> Identity | str:
    """Who ``node`` is; a phrase: what it lacks for that."""
    spec, status = node.spec, node.status
    cidrs = tuple(spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else ()))
    addresses = tuple(each.address for each in status.addresses or () if each.type == "InternalIP")
    if not cidrs:
        return (
            "it has no spec.podCIDRs: nobody gave them "
            "(kube-controller-manager needs --allocate-node-cidrs and --cluster-cidr)"
        )
    if not addresses:
        return "it has no address of type InternalIP: its kubelet has not reported yet"
    try:
        cidrs = tuple(str(ip_network(each)) for each in cidrs)
        addresses = tuple(str(ip_address(each)) for each in addresses)
    except ValueError as error:
        return f"it says what is no address: {error}"
    runtime = status.node_info.container_runtime_version if status.node_info is not None else ""
    return Identity(cidrs, addresses, runtime)


def other_pods(used: Identity, told: Identity, path: Path) -> str:
    """That the API server gave this node other pod CIDRs than its pods live by, as a sentence; empty: it did not."""
    if set(used.pod_cidrs) == set(told.pod_cidrs):
        return ""
    return (
        f"the Node has the pod CIDRs {', '.join(told.pod_cidrs)}, pods here have addresses of "
        f"{', '.join(used.pod_cidrs)}: drain the node, delete {path} and restart the agent"
    )


def other_addresses(used: Identity, told: Identity) -> str:
    """That this node has other addresses than the other nodes were told, as a sentence; empty: it has not."""
    if set(used.addresses) == set(told.addresses):
        return ""
    return (
        f"the Node has the addresses {', '.join(told.addresses)}, this agent began with "
        f"{', '.join(used.addresses)}: restart it"
    )


def load(directory: Path) -> Identity | None:
    """What an earlier start remembered in ``directory``; None: nothing that can be used."""
    path = directory / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        log.error(
            "who this node is cannot be read, the API server is asked", path=str(path), reason=str(error)
        )
        return None


def save(directory: Path, identity: Identity) -> None:
    """``identity`` is remembered in ``directory``.

    Raises:
        JournalError: it could not be written.
    """
    path = directory / FILE
    scratch = path.with_suffix(".new")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with scratch.open("wb") as stream:
            stream.write(msgspec.json.encode(identity) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
        sync_directory(directory)
    except OSError as error:
        raise JournalError(str(path), error.strerror or str(error)) from error


def forget(directory: Path) -> None:
    """Nobody is remembered in ``directory``."""
    (directory / FILE).unlink(missing_ok=True)

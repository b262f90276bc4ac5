"""A Node of Kubernetes as far as its own agent reads and writes it (Kubernetes API v1, Node)."""

from __future__ import annotations

from typing import Any

import msgspec

Object = dict[str, Any]  # Any: JSON


class Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of those below."""


class Metadata(Struct, frozen=True):
    name: str
    uid: str = ""
    resource_version: str = ""


class Spec(Struct, frozen=True):
    """``taints``: as they are, because they are written back."""

    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    taints: list[Object] | None = None


class NodeAddress(Struct, frozen=True):
    type: str
    address: str


class NodeInfo(Struct, frozen=True):
    container_runtime_version: str = ""


class Condition(Struct, frozen=True):
    type: str
    status: str
    reason: str | None = None
    message: str | None = None


class Status(Struct, frozen=True):
    addresses: list[NodeAddress] | None = None
    conditions: list[Condition] | None = None
    node_info: NodeInfo | None = None


class NodeObject(Struct, frozen=True):
    """The Node."""

    metadata: Metadata
    spec: Spec = Spec()
    status: Status = Status()

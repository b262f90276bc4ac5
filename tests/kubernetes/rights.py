"""What agents may do in the API server: the rights of deploy/kubernetes, one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import yaml

from scripts.kubernetes.cluster import RunningCluster
from tests.kubernetes.mesh_agents import ROLE

Object = dict[str, Any]  # Any: objects of Kubernetes


class Right(NamedTuple):
    """One verb on one resource; ``group`` is empty for the core group."""

    group: str
    resource: str
    verb: str

    @property
    def complaint(self) -> str:
        """What the API server answers to whoever lacks it."""
        return f'cannot {self.verb} resource "{self.resource}" in API group "{self.group}"'

    def __str__(self) -> str:
        words = (self.verb, *self.resource.split("/"))
        return "-".join(words) + (f".{self.group}" if self.group else "")


def role() -> Object:
    """The ClusterRole of agents."""
    found = [each for each in yaml.safe_load_all(ROLE.read_text()) if each["kind"] == "ClusterRole"]
    (only,) = found
    return dict(only)


def rights() -> list[Right]:
    """All of them."""
    return [
        Right(group, resource, verb)
        for rule in role()["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def role_without(right: Right) -> Object:
    """The role with all of its rights but ``right``."""
    made = copy.deepcopy(role())
    made["rules"] = [
        {"apiGroups": [each.group], "resources": [each.resource], "verbs": [each.verb]}
        for each in rights()
        if each != right
    ]
    return made


@contextmanager
def taken_away(cluster: RunningCluster, right: Right) -> Iterator[None]:
    """Agents do not have ``right``, and have it again afterwards."""
    cluster.apply(role_without(right))
    try:
        yield
    finally:
        cluster.apply(role())

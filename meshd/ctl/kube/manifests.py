"""What is applied: the objects that deploy/generate.py wrote into the package, with what the user chose. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshd import __version__
from meshd.kubeapi.resources import CONFIG_MAPS, DAEMON_SETS, NAMESPACES, Resource

# Any: objects of Kubernetes, as JSON.
Object = dict[str, Any]

SOURCE = Path(__file__).with_name("manifests.yaml")
NAMESPACE = "meshd-system"
CONFIG = "meshd.yaml"
# A pod template that names its configuration is another one when that changes, so that agents are replaced.
CONFIG_DIGEST = "meshd.io/config"
# What says of an object that `meshctl kube` applied it.
MANAGER = "meshctl"

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False
)
ADMISSION = "admissionregistration.k8s.io"
ADMISSION_POLICIES = Resource(
    ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
ADMISSION_BINDINGS = Resource(
    ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
)
RESOURCES: Mapping[str, Resource] = {
    each.kind: each
    for each in (
        NAMESPACES,
        SERVICE_ACCOUNTS,
        ADMISSION_POLICIES,
        ADMISSION_BINDINGS,
        CLUSTER_ROLES,
        CLUSTER_ROLE_BINDINGS,
        CONFIG_MAPS,
        DAEMON_SETS,
    )
}
# Agents find their account, its rights and their configuration.
ORDER = tuple(RESOURCES)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose. ``config``: options of agents, merged over the defaults; ``api_servers``: HOST:PORT of each."""

    namespace: str = NAMESPACE
    image: str = f"meshd:{__version__}"
    config: Mapping[str, Any] | None = None
    api_servers: Sequence[str] = ()


def objects(choice: Choice) -> list[Object]:
    """All objects of meshd, in the order in which they are applied."""
    found = [copy.deepcopy(each) for each in _source()]
    for each in found:
        _place(each, choice.namespace)
    by_kind = {each["kind"]: each for each in found}
    config = _configured(by_kind["ConfigMap"], choice)
    template = by_kind["DaemonSet"]["spec"]["template"]
    template["metadata"].setdefault("annotations", {})[CONFIG_DIGEST] = hashlib.sha256(
        config.encode()
    ).hexdigest()
    for container in template["spec"]["containers"]:
        container["image"] = choice.image
    return sorted(found, key=lambda each: ORDER.index(each["kind"]))


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings are merged, anything else is replaced."""
    both = dict(below)
    for name, value in above.items():
        under = both.get(name)
        both[name] = (
            merged(under, value) if isinstance(value, Mapping) and isinstance(under, Mapping) else value
        )
    return both


def cleaning(daemon_set: Object, image: str, *, drop_translated: bool) -> Object:
    """A DaemonSet that gives nodes back: each of its pods is ready when its node is, and then does nothing any more.

    It has what the agents of ``daemon_set`` have of the node, and their configuration.
    """
    made = copy.deepcopy(daemon_set)
    name = f"{made['metadata']['name']}-uninstall"
    metadata = made["metadata"]
    made["metadata"] = {"name": name, "namespace": metadata["namespace"], "labels": dict(metadata["labels"])}
    made.pop("status", None)
    labels = {"app.kubernetes.io/name": "meshd", "app.kubernetes.io/component": "uninstall"}
    made["metadata"]["labels"] |= labels
    spec = made["spec"]
    spec["selector"] = {"matchLabels": labels}
    # All nodes at once: no agent is left to be replaced.
    spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    spec["minReadySeconds"] = 0
    template = spec["template"]
    template["metadata"] = {"labels": labels}
    agent = template["spec"]["containers"][0]
    config = agent["args"][agent["args"].index("--config") + 1]
    drop = " --drop-translated" if drop_translated else ""
    # The runtime's configuration first: no pod is to be given an interface that nobody takes away.
    script = (
        f"meshctl cni uninstall --leave-running --config {config} && meshd --config {config} cleanup{drop}"
    )
    shared = {
        key: agent[key]
        for key in ("env", "securityContext", "volumeMounts", "imagePullPolicy")
        if key in agent
    }
    template["spec"]["initContainers"] = [
        {"name": "clean", "image": image, "command": ["sh", "-c", script], **shared}
    ]
    template["spec"]["containers"] = [
        {
            "name": "done",
            "image": image,
            "command": ["sleep", "infinity"],
            "imagePullPolicy": agent.get("imagePullPolicy", "IfNotPresent"),
            "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        }
    ]
    template["spec"]["terminationGracePeriodSeconds"] = 0
    return made


def config_of(config_map: Object) -> dict[str, Any]:
    """The agents' configuration in ``config_map``."""
    found: dict[str, Any] = yaml.safe_load(config_map["data"][CONFIG]) or {}
    return found


def _configured(config_map: Object, choice: Choice) -> str:
    config = merged(config_of(config_map), choice.config or {})
    if choice.api_servers:
        config = merged(config, {"kubernetes": {"apiServer": {"endpoints": list(choice.api_servers)}}})
    text: str = yaml.safe_dump(config, sort_keys=False)
    config_map["data"] = {CONFIG: text}
    return json.dumps(config, sort_keys=True)


def _place(each: Object, namespace: str) -> None:
    """Puts ``each`` into ``namespace``."""
    if each["kind"] == "Namespace":
        each["metadata"]["name"] = namespace
    if "namespace" in each["metadata"]:
        each["metadata"]["namespace"] = namespace
    for subject in each.get("subjects", ()):
        subject["namespace"] = namespace


def _source() -> Iterator[Object]:
    for each in yaml.safe_load_all(SOURCE.read_text()):
        if each:
            yield each

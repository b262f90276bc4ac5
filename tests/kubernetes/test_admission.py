"""An agent writes on its own node, and there only what is an agent's to write; a real API server holds it to that."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshd.kubeapi.client import MERGE, STRATEGIC
from tests.kubernetes.api_server import ApiServerAlone
from tests.kubernetes.rights import Object

BASE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base"
NAMESPACE = "meshd-system"
TAINT = {"key": "meshd.io/agent-not-ready", "effect": "NoSchedule"}
OTHER = {"key": "dedicated", "effect": "NoExecute"}
# The API server takes a new policy up on its own time.
PATIENCE_S = 60.0

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def nodes(api_server: ApiServerAlone) -> None:
    """Two of them, and an agent's account with its role, held by the policy."""
    for name in ("namespace", "service-account", "cluster-role", "admission-policy"):
        api_server.kubectl("apply", "-f", str(BASE / f"{name}.yaml"))
    for name in ("n1", "n2"):
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [OTHER]}}
        api_server.kubectl("apply", "-f", "-", content=json.dumps(body))


@pytest.fixture(scope="module")
def ask(api_server: ApiServerAlone, nodes: None) -> Iterator[Ask]:
    """What the API server answers the agent of n1 that patches ``node``; empty: it did."""
    token = api_server.kubectl(
        *("create", "token", "meshd", "-n", NAMESPACE, "--bound-object-kind=Node", "--bound-object-name=n1")
    ).strip()

    trusted = ssl.create_default_context(cafile=str(api_server.server.keys.authority))

    def patched(path: str, change: Object, kind: str = STRATEGIC, token: str = token) -> str:
        # Not with kubectl, which reads what it patches: an agent has no right to.
        asked = urllib.request.Request(  # noqa: S310 - ours
            f"{api_server.url}/api/v1/nodes/{path}",
            json.dumps(change).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": kind},
            method="PATCH",
        )
        try:
            urllib.request.urlopen(asked, context=trusted, timeout=PATIENCE_S).close()  # noqa: S310 - ours
        except urllib.error.HTTPError as error:
            with error:
                return str(json.load(error)["message"])
        return ""

    until = time.monotonic() + PATIENCE_S
    while not patched("n2", {"spec": {"unschedulable": True}}) and time.monotonic() < until:
        time.sleep(0.1)
    yield patched


def condition(kind: str) -> Object:
    listed = {"type": kind, "status": "False", "reason": "MeshdIsUp", "message": "m"}
    return {"status": {"conditions": [listed]}}


def test_an_agent_sets_its_taint_and_its_condition_and_takes_them_back(
    ask: Ask, api_server: ApiServerAlone
) -> None:
    # The API server has given it more.
    before = json.loads(api_server.kubectl("get", "node", "n1", "-o", "json"))["spec"]["taints"]
    assert OTHER in before
    assert ask("n1", {"spec": {"taints": [*before, TAINT]}}, MERGE) == ""
    assert ask("n1", {"spec": {"taints": before}}, MERGE) == ""
    assert ask("n1/status", condition("NetworkUnavailable")) == ""
    gone = {"status": {"conditions": [{"type": "NetworkUnavailable", "$patch": "delete"}]}}
    assert ask("n1/status", gone) == ""


def test_another_node_is_not_an_agents(ask: Ask) -> None:
    said = "an agent of meshd changes its own node only: this one is of n1"
    assert said in ask("n2", {"spec": {"taints": [OTHER, TAINT]}}, MERGE)
    assert said in ask("n2/status", condition("NetworkUnavailable"))


@pytest.mark.parametrize(
    ("path", "change", "only"),
    [
        ("n1", {"spec": {"unschedulable": True}}, "the taint"),
        ("n1", {"spec": {"taints": [TAINT]}}, "the taint"),
        ("n1", {"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}}, "the taint"),
        ("n1", {"metadata": {"labels": {"tier": "control-plane"}}}, "no labels"),
        ("n1/status", {"metadata": {"annotations": {"of": "somebody"}}}, "no labels and no annotations"),
        ("n1/status", condition("Ready"), "the condition"),
        (
            "n1/status",
            {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}},
            "the condition",
        ),
        ("n1/status", {"status": {"capacity": {"example.com/gpu": "8"}}}, "the condition"),
    ],
)
def test_of_its_own_node_the_rest_is_not_an_agents_either(
    ask: Ask, path: str, change: Object, only: str
) -> None:
    assert only in ask(path, change)


def test_who_is_bound_to_no_node_changes_none(ask: Ask, api_server: ApiServerAlone) -> None:
    unbound = api_server.kubectl("create", "token", "meshd", "-n", NAMESPACE).strip()
    assert "this one is bound to none" in ask("n1/status", condition("NetworkUnavailable"), token=unbound)


def test_nobody_else_is_held_to_it(ask: Ask, api_server: ApiServerAlone) -> None:
    api_server.kubectl("label", "node", "n2", "tier=worker")
    labels = json.loads(api_server.kubectl("get", "node", "n2", "-o", "json"))["metadata"]["labels"]
    assert labels["tier"] == "worker"

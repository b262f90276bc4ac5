"""What an agent says on its Node, and of policies, in a real API server, with the rights that deploy/kubernetes gives it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshd.kubeapi import kubeconfig
from meshd.kubeapi.client import Client
from meshd.kubenode import identity as identities
from meshd.kubenode.announcement import TAINT, Availability
from meshd.kubenode.identity import Identity
from meshd.kubenode.own_node import OwnNodeObject, first_identity, release
from meshd.kubenode.policies import Policies
from tests.kubernetes.api_server import ApiServerAlone
from tests.kubernetes.following import QuickPace
from tests.kubernetes.mesh_agents import ROLE
from tests.kubernetes.rights import Right, role, role_without

USED = Identity(("10.1.0.0/24",), ("192.0.2.1",))
PATIENCE_S = 60.0
Object = dict[str, Any]  # Any: objects of Kubernetes


@pytest.fixture(scope="module")
def agent(api_server: ApiServerAlone) -> Path:
    """A kubeconfig with the rights of an agent."""
    role, *_ = yaml.safe_load_all(ROLE.read_text())
    subject = {"kind": "User", "name": "agent", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "meshd"},
        "subjects": [subject],
    }
    api_server.kubectl("apply", "-f", "-", content=yaml.safe_dump_all([role, binding]))
    return api_server.client("agent")


@pytest.fixture
def node(api_server: ApiServerAlone, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a Node with pod CIDRs, an address and the taint of one that is new."""
    name = f"n{abs(hash(request.node.name)) % 10**8}"
    taints = [{"key": TAINT, "effect": "NoSchedule"}, {"key": "dedicated", "effect": "NoExecute"}]
    spec = {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"], "taints": taints}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}
    api_server.kubectl("apply", "-f", "-", content=json.dumps(body))
    status = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
    patch(api_server, name, {"status": status}, "--subresource=status")
    yield name
    api_server.kubectl("delete", "node", name)


def patch(api_server: ApiServerAlone, name: str, change: Object, *options: str) -> None:
    api_server.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps(change), *options)


def said(api_server: ApiServerAlone, name: str) -> tuple[list[str], tuple[str, str] | None]:
    """Keys of its taints, without those that the API server gives every new node; status and reason of the condition."""
    found = json.loads(api_server.kubectl("get", "node", name, "-o", "json"))
    listed = found["status"].get("conditions", [])
    conditions = {each["type"]: (each["status"], each["reason"]) for each in listed}
    keys = [each["key"] for each in found["spec"].get("taints", [])]
    own = [key for key in keys if not key.startswith("node.kubernetes.io/")]
    return own, conditions.get("NetworkUnavailable")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def connected(access: Path) -> AsyncIterator[Client]:
    async with Client(kubeconfig.load(access)) as client:
        yield client
    # The other side of each connection takes part in its end.
    async with Client(kubeconfig.load(access)) as client:
        await client.fetch("/version")


@asynccontextmanager
async def speaking(access: Path, name: str, directory: Path) -> AsyncIterator[OwnNodeObject]:
    async with connected(access) as client:
        made = OwnNodeObject(client, name, USED, directory, QuickPace)
        task = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_a_node_says_who_it_is_once_it_has_pod_cidrs(api_server: ApiServerAlone, agent: Path) -> None:
    waited: list[str] = []
    name = "late"
    asking = asyncio.create_task(first_identity(lambda: kubeconfig.load(agent), name, waited.append))
    await until(lambda: any("NotFound" in each for each in waited))
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    api_server.kubectl("apply", "-f", "-", content=json.dumps(body))
    await until(lambda: any("no spec.podCIDRs" in each for each in waited))
    patch(api_server, name, {"spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}})
    status = {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
    patch(api_server, name, {"status": status}, "--subresource=status")
    assert await asyncio.wait_for(asking, PATIENCE_S) == USED
    api_server.kubectl("delete", "node", name)


async def test_taint_and_condition_follow_and_a_taint_that_comes_back_goes_again(
    api_server: ApiServerAlone, agent: Path, node: str, tmp_path: Path
) -> None:
    async with speaking(agent, node, tmp_path) as speaker:
        speaker.say(Availability())
        await until(lambda: said(api_server, node) == (["dedicated"], ("False", "MeshdIsUp")))
        api_server.kubectl("taint", "node", node, f"{TAINT}:NoSchedule")
        await until(lambda: said(api_server, node)[0] == ["dedicated"])
    # An agent that ends is no event.
    assert said(api_server, node) == (["dedicated"], ("False", "MeshdIsUp"))
    await release(lambda: kubeconfig.load(agent), node)
    assert said(api_server, node) == (["dedicated"], None)


async def test_a_node_that_cannot_serve_new_pods_says_so(
    api_server: ApiServerAlone, agent: Path, node: str, tmp_path: Path
) -> None:
    patch(api_server, node, {"spec": {"taints": []}})
    async with speaking(agent, node, tmp_path) as speaker:
        speaker.say(Availability("no address left"))
        await until(lambda: said(api_server, node) == ([TAINT], ("True", "MeshdCannotServe")))
        assert speaker.problems() == ["node: new pods have no network here: no address left"]


async def test_a_node_with_other_pod_cidrs_than_before_is_one_clear_problem(
    api_server: ApiServerAlone, agent: Path, node: str, tmp_path: Path
) -> None:
    async with connected(agent) as client:
        used = Identity(("10.9.0.0/24",), USED.addresses)
        made = OwnNodeObject(client, node, used, tmp_path, QuickPace)
        task = asyncio.create_task(made.run())
        await until(lambda: bool(made.other_pods))
        assert "pod CIDRs 10.1.0.0/24, pods here have addresses of 10.9.0.0/24" in made.other_pods
        task.cancel()
        await asyncio.wait([task])


async def test_policies_are_counted_and_told_once_for_each_generation(
    api_server: ApiServerAlone, agent: Path
) -> None:
    def policy(action: str) -> str:
        spec = {"podSelector": {}, "policyTypes": [action]}
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        return json.dumps({**kind, "metadata": {"name": "deny", "namespace": "default"}, "spec": spec})

    def events() -> int:
        found = api_server.kubectl("get", "events", "--field-selector=reason=PolicyNotEnforced", "-o", "name")
        return len(found.split())

    api_server.kubectl("apply", "-f", "-", content=policy("Ingress"))
    async with connected(agent) as client:
        both = [Policies(client, name, lambda: True, QuickPace) for name in ("n1", "n2")]
        tasks = [asyncio.create_task(each.run()) for each in both]
        try:
            await until(lambda: all(each.counts.get("NetworkPolicy") == 1 for each in both))
            await until(lambda: events() == 1)
            assert both[0].problems() == ["policies are not enforced: 1 NetworkPolicy"]
            api_server.kubectl("apply", "-f", "-", content=policy("Egress"))
            await until(lambda: events() == 2)
            api_server.kubectl("delete", "networkpolicy", "deny", "-n", "default")
            await until(lambda: both[0].problems() == [])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    await until(lambda: events() == 2)


async def test_an_event_that_was_forbidden_is_made_once_it_may_be(
    api_server: ApiServerAlone, agent: Path
) -> None:
    def policy(name: str) -> str:
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        metadata = {"name": name, "namespace": "default"}
        return json.dumps({**kind, "metadata": metadata, "spec": {"podSelector": {}}})

    def told() -> set[str]:
        found = api_server.kubectl("get", "events", "--field-selector=reason=PolicyNotEnforced", "-o", "json")
        return {each["involvedObject"]["name"] for each in json.loads(found)["items"]}

    right = Right("", "events", "create")
    api_server.kubectl("apply", "-f", "-", content=json.dumps(role_without(right)))
    try:
        api_server.kubectl("apply", "-f", "-", content=policy("first"))
        async with connected(agent) as client:
            policies = Policies(client, "n1", lambda: True, QuickPace)
            task = asyncio.create_task(policies.run())
            await until(lambda: any(right.complaint in each for each in policies.problems()))
            api_server.kubectl("apply", "-f", "-", content=json.dumps(role()))
            # The next change, or a minute, lets it try again.
            api_server.kubectl("apply", "-f", "-", content=policy("second"))
            await until(lambda: {"first", "second"} <= told())
            await until(lambda: policies.problems() == ["policies are not enforced: 2 NetworkPolicy"])
            task.cancel()
            await asyncio.wait([task])
    finally:
        api_server.kubectl("apply", "-f", "-", content=json.dumps(role()))
        api_server.kubectl("delete", "networkpolicy", "--all", "-n", "default")


def test_an_operator_takes_off_the_node_what_an_agent_put_there(
    api_server: ApiServerAlone, agent: Path, node: str, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    identities.save(tmp_path / "state", USED)
    config = tmp_path / "meshd.yaml"
    options = {name: str(tmp_path / name) for name in ("runDir", "bpffs")} | {"stateDir": f"{tmp_path}/state"}
    config.write_text(json.dumps({**options, "nodeName": node, "kubernetes": {"kubeconfig": str(agent)}}))
    command = [sys.executable, "-m", "meshd.agent", "node", "release", "--config", str(config)]
    done = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)]
    assert [each.stdout for each in done] == [
        f"meshd: Node {node}: removed taint\n",
        f"meshd: Node {node}: removed nothing\n",
    ], done
    assert said(api_server, node) == (["dedicated"], None)
    assert identities.load(tmp_path / "state") is None

"""Each right of an agent is needed: without it status names it, nothing that is programmed goes, and given back it is used
without a restart. In `make test` one of them (test_node_pods.py)."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from scripts.kubernetes.cluster import RunningCluster
from scripts.kubernetes.site import Wanted, site
from tests.kubernetes.mesh_agents import MeshAgents
from tests.kubernetes.rights import Object, Right, rights, taken_away

pytestmark = [
    pytest.mark.needs("root", "bpf", "cgroup_v2", "command:containerd", "command:runc", "command:busybox"),
    pytest.mark.timeout(400),
    pytest.mark.long,
]
NODE = "c1-n1"
TAINT = "meshd.io/agent-not-ready"
# Kinds of policies that only some clusters serve: group -> plural and kind.
SERVED = {
    "policy.networking.k8s.io": [("clusternetworkpolicies", "ClusterNetworkPolicy", "Cluster")],
    "cilium.io": [
        ("ciliumnetworkpolicies", "CiliumNetworkPolicy", "Namespaced"),
        ("ciliumclusterwidenetworkpolicies", "CiliumClusterwideNetworkPolicy", "Cluster"),
    ],
}


def definition(group: str, plural: str, kind: str, scope: str) -> Object:
    """A kind of policy that says nothing."""
    version = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    # What of k8s.io nobody approved is not served (KEP 2337).
    approved = {"api-approved.kubernetes.io": "unapproved, a test"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": approved},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def cluster(run_name: str) -> Iterator[RunningCluster]:
    """One node, and every kind of policy."""
    with site(f"{run_name}r", Wanted(clusters=(1,))) as made:
        cluster = made.clusters[0]
        kinds = [(group, *each) for group, those in SERVED.items() for each in those]
        cluster.apply(*(definition(*each) for each in kinds))
        for group, plural, _, _ in kinds:
            name = f"customresourcedefinition/{plural}.{group}"
            cluster.kubectl("wait", "--for=condition=Established", name, "--timeout=60s")
        yield cluster


@pytest.fixture(scope="module")
def agents(cluster: RunningCluster) -> MeshAgents:
    """Its agent, ready."""
    made = MeshAgents(cluster)
    made.start(cluster.nodes[0])
    made.wait_ready()
    return made


def complaints(agents: MeshAgents) -> list[str]:
    """Warnings about rights."""
    return [each for each in agents.status(agents.cluster.nodes[0])["warnings"] if "cannot" in each]


def reached(cluster: RunningCluster) -> bool:
    """Whether the API server is, by the address of its service, which only the agent's programs answer."""
    address = cluster.get("service", "kubernetes")["spec"]["clusterIP"]
    said = cluster.nodes[0].run(
        "sh", "-c", f"busybox nc -w 5 {address} 443 </dev/null && echo reached", check=False
    )
    return said == "reached\n"


def give_work(cluster: RunningCluster, name: str) -> None:
    """The agent has a reason for everything that it writes."""
    cluster.kubectl("taint", "node", NODE, f"{TAINT}:NoSchedule", "--overwrite")
    condition = {"type": "NetworkUnavailable", "status": "False", "reason": "Somebody", "message": name}
    patch = json.dumps({"status": {"conditions": [condition]}})
    cluster.kubectl("patch", "node", NODE, "--subresource=status", "--patch", patch)
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name.lower()},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    cluster.apply(policy)


def work_is_done(cluster: RunningCluster, name: str) -> bool:
    node = cluster.get("node", NODE)
    taints = [each["key"] for each in node["spec"].get("taints", [])]
    conditions = {each["type"]: each["reason"] for each in node["status"]["conditions"]}
    events = cluster.get("events", "--field-selector=reason=PolicyNotEnforced")["items"]
    told = {each["involvedObject"]["name"] for each in events}
    return (TAINT not in taints, conditions["NetworkUnavailable"], name.lower() in told) == (
        True,
        "MeshdIsUp",
        True,
    )


@pytest.mark.parametrize("right", rights(), ids=str)
def test_a_right_that_is_missing_is_named_costs_nothing_that_is_there_and_is_used_when_it_comes(
    cluster: RunningCluster, agents: MeshAgents, right: Right
) -> None:
    (node,) = cluster.nodes
    cluster.wait("an agent without complaints", lambda: complaints(agents) == [])
    assert reached(cluster)
    with taken_away(cluster, right):
        give_work(cluster, str(right))
        # Whoever watches goes on doing so: rights are asked about at the beginning.
        agents.stop(node, signal.SIGKILL)
        assert reached(cluster)
        agents.start(node)
        cluster.wait("the agent", lambda: agents.is_ready(node))
        cluster.wait("a complaint", lambda: any(right.complaint in each for each in complaints(agents)))
        assert [each for each in complaints(agents) if right.complaint not in each] == []
        assert agents.ask(node, "healthz") == "ok"
        assert reached(cluster)
        instance = agents.status(node)["instance"]
    cluster.wait("no complaint", lambda: complaints(agents) == [])
    cluster.wait("the work done", lambda: work_is_done(cluster, str(right)))
    assert agents.status(node)["instance"] == instance
    cluster.kubectl("delete", "networkpolicy", str(right).lower())


def test_an_agent_that_does_not_know_its_node_yet_says_what_it_lacks_to_learn_it(
    cluster: RunningCluster, agents: MeshAgents
) -> None:
    right = Right("", "nodes", "list")
    (node,) = cluster.nodes
    with taken_away(cluster, right):
        agents.stop(node)
        node.run("rm", "/var/lib/meshd/node.json")
        agents.start(node)
        cluster.wait("the reason", lambda: right.complaint in agents.ask(node, "readyz"))
        assert agents.ask(node, "healthz") == "ok"
        assert reached(cluster)
    cluster.wait("the agent", lambda: agents.is_ready(node))

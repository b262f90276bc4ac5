"""Two clusters while all is well: what one shares is in the kernel of the other's nodes, and nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from tests.e2e.clusters import GLOBAL, Global, Node, TwoClusters

# A backend in each cluster.
FIRST, SECOND = "198.18.1.11", "198.18.2.11"
REFUSED = {"[Errno 111] Connection refused"}


@pytest.fixture(scope="module")
def served(standing: TwoClusters) -> TwoClusters:
    """The clusters, with somebody who answers at both backends."""
    standing.serve(FIRST, SECOND)
    return standing


def meshctl(node: Node, *arguments: str) -> str:
    """What `meshctl` prints of ``node``."""
    command = [sys.executable, "-m", "meshd.ctl.main", "--socket", str(node.socket), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def serving(node: Node, vip: str, *backends: str) -> bool:
    """Whether exactly ``backends`` answer a workload of the node, once its kernel has them and no others."""
    node.wait(lambda: node.backends(vip) == set(backends))
    seen = node.dial(vip)
    return (set(seen["answers"]), seen["failures"]) == (set(backends), {})


def refused(node: Node, vip: str) -> bool:
    """Whether ``vip`` is known and has nobody behind it."""
    node.wait(lambda: node.backends(vip) == set())
    seen = node.dial(vip)
    return (seen["answers"], set(seen["failures"])) == ({}, REFUSED)


def test_a_backend_that_becomes_ready_in_one_cluster_serves_workloads_of_the_other(
    served: TwoClusters,
) -> None:
    here, there, node = served.second, served.first, served.second.nodes[0]
    vip = here.vip(1)
    here.write("web", 1, ready=(SECOND,), **GLOBAL)
    there.write("web", 1, waiting=(FIRST,), **GLOBAL)
    assert serving(node, vip, SECOND)
    there.write("web", 1, ready=(FIRST,), **GLOBAL)
    assert serving(node, vip, FIRST, SECOND)
    slots = [json.loads(line) for line in meshctl(node, "map", "dump", "slots", "-o", "json").splitlines()]
    assert {FIRST, SECOND} == {
        slot["value"]["backend"]["address"] for slot in slots if slot["key"]["frontend"]["address"] == vip
    }
    there.write("web", 1, waiting=(FIRST,), **GLOBAL)
    assert serving(node, vip, SECOND)


@pytest.mark.parametrize(("affinity", "preferred", "other"), [("local", 0, 1), ("remote", 1, 0)])
def test_affinity_prefers_a_side_as_long_as_it_serves(
    served: TwoClusters, affinity: str, preferred: int, other: int
) -> None:
    sides, node = (served.second, served.first), served.second.nodes[0]
    backends = (SECOND, FIRST)
    name, number = f"affine-{affinity}", 2 + preferred
    for side, backend in zip(sides, backends, strict=True):
        side.write(name, number, ready=(backend,), affinity=affinity, **GLOBAL)
    vip = served.second.vip(number)
    assert serving(node, vip, backends[preferred])
    sides[preferred].write(name, number, waiting=(backends[preferred],), affinity=affinity, **GLOBAL)
    assert serving(node, vip, backends[other])
    sides[preferred].write(name, number, ready=(backends[preferred],), affinity=affinity, **GLOBAL)
    assert serving(node, vip, backends[preferred])


def test_a_plan_says_where_traffic_goes_when_the_first_rung_loses_its_backend(served: TwoClusters) -> None:
    here, there, node = served.second, served.first, served.second.nodes[0]
    there.write("ladder", 9, ready=(FIRST,), **GLOBAL)
    here.write("ladder", 9, ready=(SECOND,), failover="cluster:cm-1, local capacity 80", **GLOBAL)
    vip = here.vip(9)
    assert serving(node, vip, FIRST)
    plans = json.loads(meshctl(node, "failover", "plan", "--lose", "cm-1", "-o", "json"))["plans"]
    (plan,) = (each for each in plans if each["service"] == "ladder")
    shares = {each["cluster"]: (each["before"]["share"], each["after"]["share"]) for each in plan["clusters"]}
    assert (shares, plan["nothingLeft"]) == ({"cm-2": (0, 1), "cm-1": (1, 0)}, False)
    there.write("ladder", 9, waiting=(FIRST,), **GLOBAL)
    assert serving(node, vip, SECOND)
    problem = "service default/ladder: local is to take 100% of the traffic and can take 80%"
    assert problem in meshctl(node, "status")


def test_only_what_both_clusters_call_global_and_one_shares_is_seen(served: TwoClusters) -> None:
    here, there, node = served.second, served.first, served.second.nodes[0]
    there.write("kept", 4, ready=(FIRST,), shared="false", **GLOBAL)
    there.write("plain", 5, ready=(FIRST,))
    there.write("mine", 6, ready=(FIRST,), **GLOBAL)
    # Shared after the others, so what is seen of it comes after what could be seen of them.
    there.write("open", 7, ready=(FIRST,), **GLOBAL)
    nothing: Global = {}
    for name, number, said in (
        ("kept", 4, GLOBAL),
        ("plain", 5, GLOBAL),
        ("mine", 6, nothing),
        ("open", 7, GLOBAL),
    ):
        here.write(name, number, **said)
    assert serving(node, here.vip(7), FIRST)
    assert [refused(node, here.vip(number)) for number in (4, 5, 6)] == [True, True, True]
    # None of the three was missed for another reason: each is seen as soon as its one word changes.
    there.write("kept", 4, ready=(FIRST,), **GLOBAL)
    there.write("plain", 5, ready=(FIRST,), **GLOBAL)
    here.write("mine", 6, **GLOBAL)
    assert [serving(node, here.vip(number), FIRST) for number in (4, 5, 6)] == [True, True, True]
    there.write("open", 7, ready=(FIRST,), shared="false", **GLOBAL)
    assert refused(node, here.vip(7))


def test_the_service_that_another_source_overrides_says_which(served: TwoClusters) -> None:
    cluster, node = served.second, served.second.nodes[0]
    by_api, by_manifest = "10.97.1.8", cluster.vip(8)
    frontend = {"address": by_api, "port": 80, "protocol": "TCP", "portName": "http"}
    file = node.directory / "api.yaml"
    file.write_text(yaml.safe_dump({"namespace": "default", "name": "twice", "frontends": [frontend]}))
    meshctl(node, "service", "apply", "-f", str(file))
    assert node.backends(by_api) == set()
    cluster.write("twice", 8, ready=(SECOND,))
    assert serving(node, by_manifest, SECOND)
    node.wait(lambda: node.backends(by_api) is None)
    listed = {
        row["source"]: row["status"]
        for row in json.loads(meshctl(node, "service", "list", "-o", "json"))["services"]
        if row["name"] == "twice"
    }
    assert {source: status["programmed"] for source, status in listed.items()} == {
        "manifests": "PROGRAMMED_SETTLED",
        "api": "PROGRAMMED_OVERRIDDEN",
    }
    assert "manifests" in listed["api"]["reason"]


def test_a_doctor_names_what_is_open_between_clusters_that_are_joined_without_certificates(
    served: TwoClusters,
) -> None:
    (node,) = served.second.nodes
    command = [sys.executable, "-m", "meshd.ctl.main", "--socket", str(node.socket), "mesh", "doctor"]
    # A child has the namespace of the thread that made it, and etcd is reached in there only.
    done = node.netns.run(
        lambda: subprocess.run([*command, "-o", "json"], capture_output=True, text=True, check=False)
    )
    found = json.loads(done.stdout)["findings"]
    assert (done.returncode, done.stderr) == (1, "")
    own, peer = "etcd of cm-2", "etcd of cm-1"
    assert {(each["check"], each["where"].partition(" at ")[0]) for each in found} == {
        ("files", str(served.second.peers / "cm-1")),
        ("members", own),
        ("members", peer),
        ("access", own),
        ("access", peer),
    }

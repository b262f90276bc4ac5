"""Who a pod is stands in the tunnel, as the number of its network, for nodes that take it; others are told of all the same.

What is asserted is what is on the wire between the nodes: outer source, number, and who speaks within.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from clustermesh import keys
from meshd.kernel import netlink
from meshd.kernel.netns import Netns
from tests.netns.cni.node import reaches
from tests.netns.pod_network_nodes.fabric import Fabric, FabricNode
from tests.netns.pod_network_nodes.test_vxlan import started, tunnelled

pytestmark = pytest.mark.needs("etcd")

ETH_P_ALL, UDP, PORT = 3, 17, 8472
UNMANAGED, REMOTE_NODE = 3, 6
ENOUGH = 20


class Wire:
    """What goes by on a node's link: in ``seen`` each different (who sent it, the number, who speaks), in order."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int, str], None] = {}

    def pods(self) -> set[tuple[str, int, str]]:
        """Without what nodes say themselves: they probe each other, too."""
        return {each for each in self.seen if each[1] != REMOTE_NODE}

    def of(self, pod: str) -> list[int]:
        """The numbers under which ``pod`` spoke."""
        return [number for _, number, inner in self.seen if inner == pod]


@contextlib.contextmanager
def wire(fabric: Fabric, node: FabricNode) -> Iterator[Wire]:
    """The link of ``node``, listened to."""
    found, over = Wire(), threading.Event()
    kind = socket.htons(ETH_P_ALL)
    with fabric.netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind)) as ear:
        ear.bind((f"{node.name}p", ETH_P_ALL))
        ear.settimeout(0.1)
        listener = threading.Thread(target=_listen, args=(ear, found, over))
        listener.start()
        try:
            yield found
        finally:
            over.set()
            listener.join()


def _listen(ear: socket.socket, found: Wire, over: threading.Event) -> None:
    while not over.is_set():
        try:
            frame = ear.recv(1 << 16)
        except TimeoutError:
            continue
        if frame[12:14] != b"\x08\x00" or frame[23] != UDP or frame[36:38] != PORT.to_bytes(2, "big"):
            continue
        outer, inner = frame[26:30], frame[76:80]
        if frame[62:64] == b"\x08\x00":
            number = struct.unpack("!I", frame[46:50])[0] >> 8
            found.seen[socket.inet_ntoa(outer), number, socket.inet_ntoa(inner)] = None


def label(node: FabricNode, netns: Path, pod: str, app: str) -> None:
    """Says of a pod what it is, as its orchestrator would."""
    metadata = {"name": pod, "namespace": "default", "labels": {"app": app}}
    annotations = {"meshd.io/netns": str(netns)}
    node.agent.write(
        pod,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata | {"annotations": annotations},
            "spec": {"nodeName": f"n{node.number}", "containers": []},
        },
    )


def identity(fabric: Fabric, cluster: str, app: str) -> int:
    """The number that etcd has for the labels; 0: none."""
    prefix = keys.identities_prefix(cluster)
    for item in fabric.etcd(cluster).ctl("get", "--prefix", prefix).get("kvs", ()):
        if f"k8s:app={app};" in base64.b64decode(item["value"]).decode():
            return int(base64.b64decode(item["key"]).decode().removeprefix(prefix))
    return 0


def labelled(fabric: Fabric, node: FabricNode, pod: str, app: str) -> tuple[Path, str, int]:
    """A pod with its IPv4 address and its identity, which is in the kernel already."""
    netns, answer = node.add(pod)
    label(node, netns, pod, app)
    node.agent.wait(lambda: identity(fabric, node.cluster, app) > 0)
    number = identity(fabric, node.cluster, app)
    node.agent.wait(lambda: rows(node)[answer.addresses[0]] == number)
    return netns, answer.addresses[0], number


def rows(node: FabricNode) -> dict[str, int]:
    """Address of a pod -> who it is, as the node's kernel has it."""
    return {key["bytes"]: value["identity"] for key, value in node.dump("pods")}


def test_each_direction_carries_the_identity_of_who_speaks(fabric: Fabric) -> None:
    fabric.join("cm-1", "cm-2")
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2, "cm-2", "vxlan")
    started(first, second)
    here, mine, web = labelled(fabric, first, "web", "web")
    _, theirs, db = labelled(fabric, second, "db", "db")
    _, other = second.add("other")
    assert (web >> 16, db >> 16) == (1, 2)
    assert {node.node().takes_identities for node in (first, second)} == {True}
    with wire(fabric, first) as heard:
        assert [reaches(here, theirs), reaches(here, other.addresses[0])] == [True, True]
        assert reaches(first.netns, theirs)
        first.agent.wait(lambda: len(heard.pods()) >= 3 and len(heard.seen) >= 4)
    # Hosts are nodes, to each other.
    assert {outer for outer, number, _ in heard.seen if number == REMOTE_NODE} >= {first.v4}
    assert heard.pods() == {
        (first.v4, web, mine),
        (second.v4, db, theirs),
        # Of whom no labels are known.
        (second.v4, UNMANAGED, other.addresses[0]),
    }


def test_a_node_of_an_older_build_is_told_the_number_of_all_and_one_that_says_it_takes_them_who_they_are(
    fabric: Fabric,
) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2, routing="vxlan")
    started(first, second)
    here, mine, web = labelled(fabric, first, "web", "web")
    _, theirs, db = labelled(fabric, second, "db", "db")
    netlink.set_up(fabric.netns, fabric.bridge, [ip_interface("192.168.70.3/24")])
    say(fabric, {"meshd.io/routing": "vxlan"})
    first.agent.wait(lambda: first.knows("cm-1/n2", "cm-1/n3"))
    first.agent.wait(lambda: "10.77.3.0/120" in first.destinations())
    with wire(fabric, first) as heard:
        for _ in range(3):
            speak(here, "10.77.3.9")
            assert reaches(here, theirs)
        first.agent.wait(lambda: len(heard.pods()) >= 3)
    assert heard.pods() == {(first.v4, UNMANAGED, mine), (first.v4, web, mine), (second.v4, db, theirs)}
    # It is replaced by a build like ours.
    say(fabric, {"meshd.io/routing": "vxlan", "meshd.io/vni": "identity"})
    first.agent.wait(lambda: first.nodes()["cm-1/n3"].takes_identities)
    first.agent.wait(lambda: is_written(first, "10.77.3.0"))
    with wire(fabric, first) as heard:
        speak(here, "10.77.3.9")
        first.agent.wait(lambda: bool(heard.pods()))
    assert heard.pods() == {(first.v4, web, mine)}


def say(fabric: Fabric, annotations: dict[str, str]) -> None:
    """The record of node 3, of which there is nothing else."""
    record: dict[str, Any] = {
        "Name": "n3",
        "Cluster": "cm-1",
        "ClusterID": 1,
        "IPAddresses": [{"Type": "InternalIP", "IP": "192.168.70.3"}],
        "IPv4AllocCIDR": {"IP": "10.77.3.0", "Mask": "////AA=="},
        "Annotations": annotations,
    }
    fabric.etcd("cm-1").ctl("put", keys.node("cm-1", "n3"), json.dumps(record))


def is_written(node: FabricNode, network: str) -> bool:
    """Whether the node's kernel has it that pods of ``network`` are told who speaks."""
    return {
        value["flags"] for key, value in node.dump("destinations") if key["address"]["bytes"] == network
    } == {1}


def speak(pod: Path, address: str) -> None:
    """A datagram to somebody who need not be there."""
    with Netns.open(pod) as opened, opened.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"anybody?", (address, 9))


def test_a_pod_with_other_labels_is_somebody_else_without_being_nobody_between_also_over_a_restart(
    fabric: Fabric,
) -> None:
    first, second = fabric.node(1, routing="vxlan"), fabric.node(2, routing="vxlan")
    started(first, second)
    here, mine, web = labelled(fabric, first, "web", "web")
    _, theirs, _ = labelled(fabric, second, "db", "db")
    with wire(fabric, first) as heard:
        assert reaches(here, theirs)
        label(first, here, "web", "api")
        first.agent.wait(lambda: reaches(here, theirs) and rows(first)[mine] != web)
        assert reaches(here, theirs)
        api = rows(first)[mine]
        first.agent.kill()
        assert reaches(here, theirs)
        first.start()
        first.agent.wait(lambda: reaches(here, theirs) and is_told(first))
        tunnelled(first, second)
        assert reaches(here, theirs)
        number = identity(fabric, "cm-1", "api")
        # What it said then is all that an agent knows that starts without etcd.
        first.agent.kill()
        fabric.etcd("cm-1").stop()
        first.start()
        assert all(reaches(here, theirs) for _ in range(ENOUGH))
        assert rows(first)[mine] == api
    assert api == number
    assert heard.of(mine) == [web, api]


def is_told(node: FabricNode) -> bool:
    """Whether its agent has asked etcd who its pods are, since it runs."""
    said = node.agent.status()
    return said is not None and any(each.name == "identities" and each.complete_once for each in said.sources)

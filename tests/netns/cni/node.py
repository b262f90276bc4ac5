"""A node with an agent that serves CNI, and a runtime that asks it through the real shim."""

from __future__ import annotations

import itertools
import json
import platform
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from socket import AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_RAW
from typing import Any

from build_backend import cni_shim
from meshd.kernel import netlink
from meshd.kernel.netlink import VethEnd
from meshd.kernel.netns import Netns, remove_named
from tests.netns.agent.agent_node import AgentNode
from tests.patience import patience

PATIENCE_S = patience(3)
_numbers = itertools.count(1)
SHIM = cni_shim.target(platform.machine())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the shim printed, and its exit status."""

    said: Any  # Any: JSON
    status: int

    @property
    def addresses(self) -> list[str]:
        return [each["address"].partition("/")[0] for each in self.said["ips"]]


class CniNode:
    """Number ``number`` of the test: pods get addresses of 10.77.N.0/24 and fd77:0:0:N::/64."""

    def __init__(self, directory: Path, name: str, number: int = 1, **cni: object) -> None:
        directory.mkdir(exist_ok=True)
        self.number = number
        self.name = name
        self.agent = AgentNode(directory, name)
        self.netns = self.agent.netns
        netlink.set_up(self.netns, "lo", [ip_interface(f"192.168.70.{number}/32")])
        self.socket = directory / "cni.sock"
        self.options: dict[str, object] = {
            "podCidrs": [f"10.77.{number}.0/24", f"fd77:0:0:{number}::/64"]
        } | cni
        self._pods: list[Path] = []

    def start(self, **more: object) -> None:
        """Starts the agent and waits until it serves runtimes."""
        self.agent.start(cni={"socket": str(self.socket)} | self.options | more)
        self.agent.wait(self._answers)

    def _answers(self) -> bool:
        said = self.ask("STATUS").said
        return said is None or "does not answer" not in said["msg"]

    def close(self) -> None:
        self.agent.close()
        for path in self._pods:
            remove_named(path)

    def pod(self, name: str) -> Path:
        """A new namespace, as a runtime makes it for a container."""
        path = self.agent.directory / f"{self.name}-{name}"
        Netns.create_named(path).close()
        self._pods.append(path)
        return path

    def remove_pod(self, path: Path) -> None:
        self._pods.remove(path)
        remove_named(path)

    def ask(
        self,
        command: str,
        container: str = "",
        netns: Path | None = None,
        *,
        version: str = "1.1.0",
        variables: dict[str, str] | None = None,
        **config: object,
    ) -> Answer:
        """Starts the shim as a runtime does."""
        environment = {"CNI_COMMAND": command, "CNI_PATH": "/nowhere"}
        if container:
            environment |= {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0"}
            environment["CNI_ARGS"] = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}"
        if netns is not None:
            environment["CNI_NETNS"] = str(netns)
        plugin = {
            "cniVersion": version,
            "name": "mesh",
            "type": "meshd-cni",
            "socket": str(self.socket),
        } | config
        done = subprocess.run(
            [SHIM],
            input=json.dumps(plugin).encode(),
            env=environment | (variables or {}),
            capture_output=True,
            check=False,
        )
        assert not done.stderr
        return Answer(json.loads(done.stdout) if done.stdout else None, done.returncode)

    def add(self, name: str, **config: object) -> tuple[Path, Answer]:
        """A pod with an interface."""
        netns = self.pod(name)
        answer = self.ask("ADD", name, netns, **config)  # type: ignore[arg-type] # any of the two
        assert answer.status == 0, answer.said
        return netns, answer

    def links(self) -> list[str]:
        """Host ends of pods."""
        return [name for name in netlink.link_names(self.netns) if name.startswith("mpod")]


def reaches(netns: Netns | Path, address: str) -> bool:
    """Whether ``address`` answers an echo request from ``netns`` (RFC 792, RFC 4443)."""
    if isinstance(netns, Path):
        with Netns.open(netns) as opened:
            return reaches(opened, address)
    is_v4 = ":" not in address
    family, protocol = (AF_INET, IPPROTO_ICMP) if is_v4 else (AF_INET6, IPPROTO_ICMPV6)
    request, reply = (8, 0) if is_v4 else (128, 129)
    number = next(_numbers)
    with netns.socket(family, SOCK_RAW, protocol) as probe:
        probe.settimeout(PATIENCE_S)
        try:
            probe.sendto(echo(request, number), (address, 0))
            while True:
                packet, (source, *_) = probe.recvfrom(2048)
                message = packet[20:] if is_v4 else packet
                if message[0] == reply and message[6:8] == number.to_bytes(2, "big") and source == address:
                    return True
        except OSError:
            return False


def echo(kind: int, number: int) -> bytes:
    """An echo request; of ICMPv6 the kernel writes the checksum."""
    message = struct.pack(">BBHHH", kind, 0, 0, 7701, number) + b"meshd!"
    total: int = sum(struct.unpack(">7H", message))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return message[:2] + checksum.to_bytes(2, "big") + message[4:]


def joined(left: CniNode, right: CniNode) -> None:
    """A cable between two nodes, and on each the routes to the other's pods: 192.168.77.N and fd78::N."""
    ends = [
        VethEnd(
            node.netns,
            f"{node.name}u"[-15:],
            (ip_interface(f"192.168.77.{node.number}/24"), ip_interface(f"fd78::{node.number}/64")),
            mtu=1400,
        )
        for node in (left, right)
    ]
    netlink.create_veth(ends[0], ends[1])
    for node, other in ((left, right), (right, left)):
        for cidr, via in zip(pod_cidrs(other), gateways(other), strict=True):
            netlink.add_route(node.netns, ip_interface(cidr).network, ip_interface(via).ip)


def pod_cidrs(node: CniNode) -> Iterable[str]:
    return f"10.77.{node.number}.0/24", f"fd77:0:0:{node.number}::/64"


def gateways(node: CniNode) -> Iterable[str]:
    return f"192.168.77.{node.number}", f"fd78::{node.number}"

"""A dataplane on the real kernel in a scratch cgroup, with one namespace whose loopback carries clients and backends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.opening import open_object
from meshd.kernel import cgroup, netlink, pins
from meshd.kernel.netns import Netns
from meshd.model import (
    Backend,
    BackendPort,
    BackendSlice,
    Frontend,
    Protocol,
    Service,
    ServiceName,
    Workload,
    parse_address,
)
from meshd.state import Mesh

NAME = ServiceName("default", "rebel-base")
VIP4, VIP6 = "10.96.0.10", "fd00:96::10"
BACKENDS4 = ("127.0.0.11", "127.0.0.12", "127.0.0.13")


class Node:
    """``mesh`` is written by the test; `agent` runs a dataplane over the same pins as often as wanted."""

    def __init__(self, directory: Path, name: str) -> None:
        self.config = Config(
            node_name="node-1", cluster_name="cm-1", bpffs=directory / "bpf", audit_interval_s=600
        )
        self.cgroup = cgroup.find_mount() / name
        self.netns = Netns.create(name)
        self.mesh = Mesh()
        self._sockets: list[socket.socket] = []
        self._home = cgroup.of_process("self")
        pins.mount_bpffs(self.config.bpffs)
        cgroup.create(self.cgroup)
        cgroup.move(self.cgroup)
        addresses = [ip_interface(text + "/128") for text in ("fd00::11", "fd00::12", "fd00::13")]
        netlink.set_up(self.netns, "lo", addresses)

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        cgroup.move(self._home)
        cgroup.remove_tree(self.cgroup)
        pins.unmount_bpffs(self.config.bpffs)
        self.netns.close()

    @contextlib.asynccontextmanager
    async def agent(self, **options: object) -> AsyncIterator[Dataplane]:
        """A running dataplane; its task ends like a killed agent's: pins, links and rows stay."""
        config = replace_config(self.config, options)
        dataplane = Dataplane(config, self.mesh, open_object(config, ()))
        dataplane.attach(self.cgroup)
        dataplane.netns.cookie_of("pods/client", self.workload("client"))
        task = asyncio.create_task(dataplane.run())
        try:
            yield dataplane
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            dataplane.close()

    def workload(self, name: str, socket_lb: bool | None = None) -> Workload:
        netns = f"/proc/{os.getpid()}/fd/{self.netns.fd}"
        return Workload("pods", name, "manifests", netns, socket_lb=socket_lb)

    def open_socket(self, family: int, kind: int) -> socket.socket:
        made = self.netns.socket(family, kind)
        made.settimeout(5)
        self._sockets.append(made)
        return made

    def connect(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        made = self.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made

    def ask(self, address: str, port: int = 80) -> str:
        """The address of the backend that answered one TCP connection."""
        with self.connect(address, port) as made:
            return made.recv(64).decode()

    async def settle(self, revision: int | None = None) -> None:
        await self.mesh.settled(self.mesh.revision if revision is None else revision)


def replace_config(config: Config, options: dict[str, object]) -> Config:
    return Config(**{name: getattr(config, name) for name in config.__struct_fields__} | options)


def service(**facts: object) -> Service:
    """`rebel-base` with TCP 80 and UDP 53 on both service addresses."""
    frontends = tuple(
        Frontend(parse_address(vip), port, protocol, name)
        for vip in (VIP4, VIP6)
        for port, protocol, name in ((80, Protocol.TCP, "http"), (53, Protocol.UDP, "dns"))
    )
    return replace(Service(NAME, "manifests", frontends), **facts)  # type: ignore[arg-type]


def backend(address: str, **facts: object) -> Backend:
    ports = (BackendPort("http", Protocol.TCP, 8080), BackendPort("dns", Protocol.UDP, 5353))
    return replace(Backend(parse_address(address), ports), **facts)  # type: ignore[arg-type]


def backends(*members: Backend, source: str = "manifests", cluster: str = "cm-1") -> BackendSlice:
    return BackendSlice(NAME, "part", source, cluster, members)


async def nothing_unwanted(dataplane: Dataplane) -> None:
    """Until the maps hold no slot, member or frontend that nobody wants."""
    async with asyncio.timeout(5):
        while any(
            dataplane.delta.owner(name, row) is None
            for name in ("frontends", "slots", "members")
            for row in dict(dataplane.maps[name].items())
        ):
            await asyncio.sleep(0.005)


class Servers:
    """TCP servers that answer each connection with their own address, and UDP servers that echo with it."""

    def __init__(self, node: Node) -> None:
        self._sockets: list[socket.socket] = []
        self._node = node

    def tcp(self, address: str, port: int = 8080) -> None:
        listener = self._node.open_socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
        )
        listener.settimeout(None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        self._serve(listener, lambda: self._accept(listener, address))

    def udp(self, address: str, port: int = 5353) -> None:
        server = self._node.open_socket(
            socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM
        )
        server.settimeout(None)
        server.bind((address, port))
        self._serve(server, lambda: self._echo(server, address))

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, made: socket.socket, once: object) -> None:
        self._sockets.append(made)

        def loop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    once()  # type: ignore[operator]

        threading.Thread(target=loop, daemon=True).start()

    @staticmethod
    def _accept(listener: socket.socket, address: str) -> None:
        connection, _ = listener.accept()
        connection.sendall(address.encode())
        connection.detach() if address == "keep" else connection.close()

    @staticmethod
    def _echo(server: socket.socket, address: str) -> None:
        data, peer = server.recvfrom(2048)
        if not data and peer is None:
            raise OSError
        server.sendto(address.encode() + b" " + data, peer)


@contextlib.contextmanager
def serving(node: Node, *addresses: str) -> Iterator[Servers]:
    """TCP 8080 and UDP 5353 on each address."""
    servers = Servers(node)
    try:
        for address in addresses:
            servers.tcp(address)
            servers.udp(address)
        yield servers
    finally:
        servers.close()

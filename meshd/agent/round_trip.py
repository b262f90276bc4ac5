"""A packet through a pod made for it: the only proof that the next pod will have a network.

The pod is a namespace that nobody but this process holds, so with the process it goes, and its link with it. The agent is
asked for its interface at its own socket, as the shim asks.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import msgspec

from meshd.errors import KernelError, RoundTripFailed
from meshd.kernel.netns import Netns
from meshd.servers.cni.frames import HEADER

NAMESPACE, NAME = "meshd-round-trip", "round-trip"
VERSION = "1.0.0"
ANSWER_S = 20.0
# A datagram may be lost on a busy machine; so many in a row are not.
TRIES, TRY_S = 5, 1.0


async def round_trip(asked: Path) -> list[str]:
    """The addresses that a new pod was reached at, by datagrams there and back. ``asked``: the socket of the CNI plugin.

    Raises:
        RoundTripFailed: one family was not, or there was no interface at all.
    """
    try:
        netns = await asyncio.to_thread(Netns.create, NAME)
    except KernelError as error:
        raise RoundTripFailed("make a namespace", str(error)) from error
    with netns:
        # What a container's id is to a runtime; never the same again.
        container = f"{NAME}-{time.time_ns()}"
        variables = {
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{netns.fd}",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={NAME}",
        }
        try:
            addresses = _addresses(await _ask(asked, "ADD", variables))
            for address in addresses:
                await _there_and_back(netns, address)
        except BaseException:
            # What failed first is what counts; the namespace goes in any case, and with it the link.
            with suppress(RoundTripFailed):
                await _ask(asked, "DEL", variables)
            raise
        await _ask(asked, "DEL", variables)
        return addresses


def _addresses(said: object) -> list[str]:
    # Any: JSON, of our own plugin
    ips = said.get("ips", []) if isinstance(said, dict) else []
    found = [str(each["address"]).partition("/")[0] for each in ips]
    if not found:
        raise RoundTripFailed("ADD", "the pod was given no address")
    return found


async def _ask(path: Path, command: str, variables: dict[str, str]) -> object:
    config = {"cniVersion": VERSION, "name": "meshd", "type": "meshd-cni"}
    environment = msgspec.json.encode({**variables, "CNI_COMMAND": command})
    body = msgspec.json.encode(config)
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(HEADER.pack(len(environment), len(body)) + environment + body)
                length, status = HEADER.unpack(await reader.readexactly(HEADER.size))
                said = json.loads(await reader.readexactly(length) or b"null")
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError, ValueError) as error:
        raise RoundTripFailed(command, f"the CNI plugin does not answer: {error!r}") from error
    if status:
        raise RoundTripFailed(
            command, "; ".join(str(said[key]) for key in ("msg", "details") if said.get(key))
        )
    return said


async def _there_and_back(netns: Netns, address: str) -> None:
    """A datagram from the node to the pod, and one back to where it came from."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    step = f"a datagram to {address}"
    try:
        with (
            await asyncio.to_thread(netns.socket, family, socket.SOCK_DGRAM) as pod,
            socket.socket(family, socket.SOCK_DGRAM) as node,
        ):
            for each in (pod, node):
                each.setblocking(False)
            pod.bind((address, 0))
            place = address, pod.getsockname()[1]
            where = step
            for number in range(TRIES):
                body = f"{NAME} {number}".encode()
                try:
                    async with asyncio.timeout(TRY_S):
                        where = "did not arrive in the pod"
                        await loop.sock_sendto(node, body, place)
                        _, sender = await loop.sock_recvfrom(pod, 64)
                        where = f"arrived in the pod, its answer to {sender[0]} did not come back"
                        await loop.sock_sendto(pod, body, sender)
                        await loop.sock_recvfrom(node, 64)
                        return
                except TimeoutError:
                    continue
    except (OSError, KernelError) as error:
        raise RoundTripFailed(step, str(error)) from error
    raise RoundTripFailed(step, where)

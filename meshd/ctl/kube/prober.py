"""What runs in the pods of ``meshctl kube check --connectivity``. Nothing but the standard library, and this one file: it is
mounted into whatever image with Python the agents have, so it is always of the same build as the meshctl that asks.

    prober.py serve PORT     answers over TCP and UDP who it is and whom it saw, until SIGTERM
    prober.py probe          tries the targets in $TARGETS at once; a line of JSON for each, in the order in which they end

A target has ``id``, ``kind`` (a function of KINDS), ``family`` (4 or 6), ``host`` and ``port``. An answer has ``id``,
``passed`` (None: it cannot be told), ``said`` and ``tries``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Target = Mapping[str, Any]  # Any: JSON

TRIES = 3
TRY_S = 3.0
BETWEEN_S = 0.5
# Several full packets in both directions: what a wrong MTU lets through is small.
LARGE_BYTES = 64 * 1024
# Hop limits of 1 end at the node.
HOPS = (2, 3, 4)
# linux/in.h, linux/in6.h, linux/errqueue.h: not in the module socket of Python 3.11.
IP_RECVERR, IPV6_RECVERR = 11, 25
ERROR = struct.Struct("=IBBBBII")


class FailedError(Exception):
    """The target did not do what it should; the text says what it did."""


class UnknownError(Exception):
    """Whether the target can be reached cannot be told; the text says why."""


def main(arguments: list[str]) -> None:
    """``serve`` or ``probe``; ends the process."""
    if arguments[0] == "serve":
        asyncio.run(serve(int(arguments[1])))
    else:
        asyncio.run(probe_all(json.loads(os.environ["TARGETS"])))
    sys.stdout.flush()
    # A resolver that still waits is waited for by nobody.
    os._exit(0)


async def serve(port: int) -> None:
    """Both families, as far as there are any."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            await asyncio.start_server(answer, sock=listening(family, socket.SOCK_STREAM, port))
            await loop.create_datagram_endpoint(Echo, sock=listening(family, socket.SOCK_DGRAM, port))
        except OSError as error:
            print(f"{family.name} cannot be served: {error}", flush=True)
        else:
            print(f"{family.name} is served", flush=True)
    await ended.wait()


def listening(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket of this family alone: asyncio makes one of IPv6 take the other's datagrams as well."""
    made = socket.socket(family, kind)
    made.setblocking(False)
    if family is socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("", port))
    return made


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """First who we are, in one packet, then as much as is sent."""
    try:
        asked = json.loads(await reader.readline())
        writer.write(about(writer.get_extra_info("peername")))
        await writer.drain()
        writer.write(await reader.readexactly(asked["bytes"]))
        await writer.drain()
    except (OSError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError):
        # Probes of kubelets connect and say nothing.
        return
    finally:
        writer.close()


class Echo(asyncio.DatagramProtocol):
    """Who we are, to whoever asks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # Any: what typeshed calls it differs

    def datagram_received(self, _: bytes, address: Any) -> None:  # Any: of either family
        self._transport.sendto(about(address), address)


def about(peer: tuple[Any, ...]) -> bytes:
    return json.dumps({"node": os.environ.get("NODE", ""), "saw": peer[0]}).encode() + b"\n"


async def probe_all(targets: list[Target]) -> None:
    await asyncio.gather(*map(probe, targets))


async def probe(target: Target) -> None:
    """Tries ``target`` until it passes, a few times at most, and prints the last answer."""
    passed: bool | None = False
    said, tries = "", 0
    while not passed and tries < TRIES:
        if tries:
            await asyncio.sleep(BETWEEN_S)
        tries += 1
        try:
            async with asyncio.timeout(TRY_S):
                said = await KINDS[target["kind"]](target)
            passed = True
        except UnknownError as error:
            passed, said = None, str(error)
        except FailedError as error:
            passed, said = False, str(error)
        except ConnectionRefusedError:
            passed, said = False, "refused"
        except TimeoutError:
            passed, said = False, f"no answer within {TRY_S:g} s"
        except OSError as error:
            passed, said = False, error.strerror or str(error)
    print(json.dumps({"id": target["id"], "passed": passed, "said": said, "tries": tries}), flush=True)


async def ask_tcp(target: Target) -> str:
    """A server of ours: that it is the right one, that it saw us as who we are, and that large packets pass."""
    reader, writer = await asyncio.open_connection(target["host"], target["port"])
    try:
        writer.write(json.dumps({"bytes": LARGE_BYTES}).encode() + b"\n")
        said = judged(await reader.readline(), target)
        writer.write(bytes(LARGE_BYTES))
        try:
            async with asyncio.timeout(TRY_S / 2):
                await reader.readexactly(LARGE_BYTES)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            raise FailedError(
                "small packets pass and large ones do not: the MTU is wrong on the way"
            ) from error
    finally:
        writer.close()
    return said


async def ask_udp(target: Target) -> str:
    """The same with one datagram from a connected socket."""
    loop = asyncio.get_running_loop()
    with a_socket(target, socket.SOCK_DGRAM) as sock:
        await loop.sock_connect(sock, (target["host"], target["port"]))
        await loop.sock_sendall(sock, b"?")
        return judged(await loop.sock_recv(sock, 2048), target)


def judged(line: bytes, target: Target) -> str:
    """``from``: the addresses that we have; ``node``: where the right server is."""
    if not line:
        raise FailedError("the connection was closed without an answer")
    try:
        said = json.loads(line)
        node, saw = said["node"], said["saw"]
    except (ValueError, KeyError, TypeError) as error:
        raise FailedError(f"somebody else answered: {line[:40]!r}") from error
    if node != target["node"]:
        raise FailedError(f"the server on {node} answered, not the one on {target['node']}")
    if saw not in os.environ["ADDRESSES"].split(","):
        raise FailedError(f"answered, but it saw {saw} instead of the pod's own address")
    return "answered"


async def resolve(target: Target) -> str:
    """That a name means the ``addresses`` that it should, to the C library, as to every program."""
    family = socket.AF_INET if target["family"] == 4 else socket.AF_INET6
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target["host"], None, family=family, type=socket.SOCK_STREAM
        )
    except socket.gaierror as error:
        raise FailedError(f"{error.strerror}, says {' or '.join(nameservers())}") from error
    addresses = sorted({str(each[4][0]) for each in found})
    if addresses != sorted(target["addresses"]):
        raise FailedError(f"it is {', '.join(addresses)}, says {' or '.join(nameservers())}")
    return f"it is {', '.join(addresses)}"


def nameservers() -> list[str]:
    with open("/etc/resolv.conf") as file:  # noqa: PTH123 - as small as it can be
        return [line.split()[1] for line in file if line.startswith("nameserver ")]


async def ask_https(target: Target) -> str:
    """Any answer over TLS: who may read what is another question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(target["host"], target["port"], ssl=context)
    try:
        writer.write(b"GET /version HTTP/1.0\r\n\r\n")
        line = (await reader.readline()).decode(errors="replace").strip()
    finally:
        writer.close()
    if not line.startswith("HTTP/"):
        raise FailedError(f"it answered {line[:40]!r}")
    return line


async def knock(target: Target) -> str:
    """Whether anything comes back from a host: that it refuses is an answer of the host."""
    try:
        _, writer = await asyncio.open_connection(target["host"], target["port"])
    except ConnectionRefusedError:
        return "it refused, so it answers"
    writer.close()
    return "connected"


async def ask_routers(target: Target) -> str:
    """Whether a router behind the node lets us know that a packet of ours came: it needs no host that answers anybody."""
    for limit in HOPS:
        # One by one: routers say it once in a while only.
        if router := await ask_router(target, limit):
            return f"{router} answered"
    raise UnknownError(
        "no router behind the node says anything, which many never do: try an address, --outside"
    )


async def ask_router(target: Target, limit: int) -> str:
    """The address of the router where a packet with ``limit`` hops ended; empty: it does not say."""
    is_v4 = target["family"] == 4
    level = socket.IPPROTO_IP if is_v4 else socket.IPPROTO_IPV6
    with a_socket(target, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, IP_RECVERR if is_v4 else IPV6_RECVERR, 1)
        sock.setsockopt(level, socket.IP_TTL if is_v4 else socket.IPV6_UNICAST_HOPS, limit)
        try:
            sock.sendto(b"?", (target["host"], target["port"] + limit))
        except OSError:
            return ""
        for _ in range(9):
            await asyncio.sleep(TRY_S / 30)
            try:
                _, said, _, _ = sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                continue
            return offender(said[0][2], is_v4=is_v4) if said else ""
    return ""


def offender(said: bytes, *, is_v4: bool) -> str:
    """Who sent the ICMP error (struct sock_extended_err, and behind it his sockaddr)."""
    at = ERROR.size + (4 if is_v4 else 8)
    raw = said[at : at + (4 if is_v4 else 16)]
    return socket.inet_ntop(socket.AF_INET if is_v4 else socket.AF_INET6, raw) if any(raw) else ""


def a_socket(target: Target, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET if target["family"] == 4 else socket.AF_INET6, kind)
    made.setblocking(False)
    return made


KINDS: Mapping[str, Callable[[Target], Awaitable[str]]] = {
    "tcp": ask_tcp,
    "udp": ask_udp,
    "name": resolve,
    "https": ask_https,
    "knock": knock,
    "routers": ask_routers,
}

if __name__ == "__main__":
    main(sys.argv[1:])

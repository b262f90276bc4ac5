"""x-wing: a client that calls a service at a fixed rate, each request on a new connection, never a second try.

Requests begin when they are due, however long earlier ones take. IPv4 and IPv6 take turns. Every request ends in one line of
``requests.log`` in the pod's directory:

    begun_ns latency_us family ok CLUSTER POD
    begun_ns latency_us family lost REASON

``begun_ns`` is the monotonic clock, which all pods of a machine share. A request is lost unless its whole answer was there
within the deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import time
from pathlib import Path
from typing import TextIO, cast

FLUSH_S = 0.05
# The REASON of a request that nobody answered in time.
DEADLINE = "deadline"


class Refused(Exception):
    """The answer is not one: the reason is its text, without blanks."""


class Exchange(asyncio.Protocol):
    """One request on one connection; ``done`` ends with all that the server sent."""

    def __init__(self, request: bytes, done: asyncio.Future[bytes]) -> None:
        self._request = request
        self._done = done
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What a TCP client makes; the base class is for pipes too.
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(bytes(self._received))
        else:
            self._done.set_exception(error)


async def exchange(host: str, port: int, request: bytes) -> bytes:
    """All that ``host``:``port`` sent back before it closed."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()
    transport, _protocol = await loop.create_connection(lambda: Exchange(request, done), host, port)
    try:
        return await done
    finally:
        transport.abort()


def answering_pod(response: bytes) -> tuple[str, str]:
    """Cluster and pod of a complete answer.

    Raises:
        Refused: it is empty, cut short, or not 200.
    """
    head, separator, body = response.partition(b"\r\n\r\n")
    if not separator:
        raise Refused("closed-early" if response else "no-answer")
    status, *fields = head.decode("latin-1").split("\r\n")
    if " 200 " not in f"{status} ":
        raise Refused("status-" + status.split(" ")[1] if " " in status else "no-http")
    lengths = [int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:")]
    if lengths != [len(body)]:
        raise Refused("cut-short")
    cluster, pod, *_rest = body.decode().split("\n")
    return cluster, pod


async def outcome_of(host: str, port: int, request: bytes, deadline_s: float) -> str:
    """``ok CLUSTER POD`` or ``lost REASON``."""
    try:
        async with asyncio.timeout(deadline_s):
            response = await exchange(host, port, request)
        return "ok {} {}".format(*answering_pod(response))
    except TimeoutError:
        return f"lost {DEADLINE}"
    except OSError as error:
        return f"lost {errno.errorcode.get(error.errno or 0, 'OSError')}"
    except Refused as refused:
        return f"lost {refused}"


async def one(host: str, port: int, request: bytes, deadline_s: float, log: TextIO) -> None:
    begun = time.monotonic_ns()
    outcome = await outcome_of(host, port, request, deadline_s)
    latency_us = (time.monotonic_ns() - begun) // 1000
    family = 6 if ":" in host else 4
    log.write(f"{begun} {latency_us} {family} {outcome}\n")


async def flush(log: TextIO) -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        log.flush()


async def fly(hosts: list[str], port: int, rate: float, deadline_s: float, log: TextIO) -> None:
    """Calls ``hosts`` in turn, ``rate`` requests a second in all, until SIGTERM; then waits for what is under way."""
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    request = b"GET / HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
    flushing = asyncio.create_task(flush(log))
    under_way: set[asyncio.Task[None]] = set()
    started = loop.time()
    number = 0
    while not terminated.is_set():
        task = asyncio.create_task(one(hosts[number % len(hosts)], port, request, deadline_s, log))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        number += 1
        try:
            await asyncio.wait_for(terminated.wait(), max(0.0, started + number / rate - loop.time()))
        except TimeoutError:
            continue
    if under_way:
        await asyncio.wait(under_way)
    flushing.cancel()
    log.flush()


def service_of(name: str) -> tuple[list[str], int]:
    """Addresses and port of service ``name`` from the environment, as Kubernetes describes services to pods."""
    prefix = name.upper().replace("-", "_")
    hosts = os.environ[f"{prefix}_SERVICE_HOSTS"].split(",")
    return hosts, int(os.environ[f"{prefix}_SERVICE_PORT"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="x-wing", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--service", default="rebel-base", help="its addresses are taken from the environment"
    )
    parser.add_argument("--rate", type=float, default=50.0, metavar="PER_SECOND")
    parser.add_argument("--deadline", type=float, default=2.0, metavar="SECONDS")
    arguments = parser.parse_args()
    hosts, port = service_of(arguments.service)
    path = Path(os.environ["POD_DIR"]) / "requests.log"
    with path.open("w") as log:
        print(f"calling {', '.join(hosts)} port {port}, {arguments.rate:g} requests a second", flush=True)
        asyncio.run(fly(hosts, port, arguments.rate, arguments.deadline, log))


if __name__ == "__main__":
    main()

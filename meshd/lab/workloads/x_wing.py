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
import errno
import os
import select
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import TextIO

FLUSH_S = 0.05
# The REASON of a request that nobody answered in time.
DEADLINE = "deadline"
REQUEST = b"GET / HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
# What is on its way to be connected or answered is told of once, when it can be written and when there is something to read.
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
RECEIVE_BYTES = 4096


class Refused(Exception):
    """The answer is not one: the reason is its text, without blanks."""


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


def outcome_of(response: bytes) -> str:
    """What is written down of all that a server sent before it closed."""
    try:
        return "ok {} {}".format(*answering_pod(response))
    except Refused as refused:
        return f"lost {refused}"


class Exchange:
    """One request on one connection."""

    __slots__ = ("begun_ns", "dialling", "family", "is_sent", "received")

    def __init__(self, host: str) -> None:
        self.begun_ns = time.monotonic_ns()
        self.family = 6 if ":" in host else 4
        self.dialling = socket.socket(
            socket.AF_INET6 if self.family == 6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        )
        self.received = b""
        self.is_sent = False

    def dial(self, host: str, port: int) -> str:
        """Begins; what is to be written down if it failed at once, else nothing."""
        return _lost(self.dialling.connect_ex((host, port)))

    def go_on(self) -> str:
        """Does what can be done now: what is to be written down if that was the end, else nothing."""
        try:
            if not self.is_sent:
                if failure := _lost(self.dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                    return failure
                # So small a request always fits.
                self.dialling.send(REQUEST)
                self.is_sent = True
            while more := self.dialling.recv(RECEIVE_BYTES):
                self.received += more
        except BlockingIOError:
            return ""
        except OSError as error:
            return _lost(error.errno or 0) or "lost OSError"
        return outcome_of(self.received)


def _lost(number: int) -> str:
    if number in (0, errno.EINPROGRESS):
        return ""
    return f"lost {errno.errorcode.get(number, 'OSError')}"


class Flight:
    """Calls ``hosts`` in turn, ``rate`` requests a second in all. One thread and one epoll: a machine has many clients."""

    def __init__(self, hosts: list[str], port: int, rate: float, deadline_s: float, log: TextIO) -> None:
        self._hosts = hosts
        self._port = port
        self._rate = rate
        self._deadline_s = deadline_s
        self._log = log
        self._epoll = select.epoll()
        self._under_way: dict[int, Exchange] = {}
        # In the order in which they began, so also that of their deadlines; some have ended.
        self._begun: deque[Exchange] = deque()
        self._flushed = 0.0

    def fly(self, terminated: int) -> None:
        """Until something can be read from ``terminated``; then waits for what is under way."""
        self._epoll.register(terminated, select.EPOLLIN)
        started, number, is_over = time.monotonic(), 0, False
        while self._under_way or not is_over:
            due = started + number / self._rate
            wait_s = min(FLUSH_S, max(0.0, due - time.monotonic())) if not is_over else FLUSH_S
            for descriptor, _ in self._epoll.poll(wait_s):
                if descriptor == terminated:
                    is_over = True
                    self._epoll.unregister(terminated)
                elif outcome := self._under_way[descriptor].go_on():
                    self._end(self._under_way[descriptor], outcome)
            self._give_up_late()
            if not is_over and time.monotonic() >= due:
                self._begin(self._hosts[number % len(self._hosts)])
                number += 1
            self._flush()
        self._log.flush()

    def _begin(self, host: str) -> None:
        exchange = Exchange(host)
        self._under_way[exchange.dialling.fileno()] = exchange
        self._begun.append(exchange)
        if outcome := exchange.dial(host, self._port):
            self._end(exchange, outcome)
        else:
            self._epoll.register(exchange.dialling.fileno(), EVENTS)

    def _end(self, exchange: Exchange, outcome: str) -> None:
        latency_us = (time.monotonic_ns() - exchange.begun_ns) // 1000
        self._log.write(f"{exchange.begun_ns} {latency_us} {exchange.family} {outcome}\n")
        del self._under_way[exchange.dialling.fileno()]
        exchange.dialling.close()

    def _give_up_late(self) -> None:
        last_ns = time.monotonic_ns() - int(self._deadline_s * 1e9)
        while self._begun and (self._begun[0].dialling.fileno() < 0 or self._begun[0].begun_ns <= last_ns):
            exchange = self._begun.popleft()
            if exchange.dialling.fileno() >= 0:
                self._end(exchange, f"lost {DEADLINE}")

    def _flush(self) -> None:
        if time.monotonic() - self._flushed > FLUSH_S:
            self._flushed = time.monotonic()
            self._log.flush()


def service_of(name: str) -> tuple[list[str], int]:
    """Addresses and port of service ``name`` from the environment, as Kubernetes describes services to pods."""
    prefix = name.upper().replace("-", "_")
    hosts = os.environ[f"{prefix}_SERVICE_HOSTS"].split(",")
    return hosts, int(os.environ[f"{prefix}_SERVICE_PORT"])


def told_of_sigterm() -> int:
    """A descriptor that can be read from when SIGTERM came."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    return reading


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
        Flight(hosts, port, arguments.rate, arguments.deadline, log).fly(told_of_sigterm())


if __name__ == "__main__":
    main()

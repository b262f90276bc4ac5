"""rebel-base and x-wing as real processes on the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshd.lab import workloads
from meshd.lab.demo.requests import Log, Request
from meshd.lab.workloads.rebel_base import COUNTS
from meshd.lab.workloads.x_wing import Refused, answering_pod

TIMEOUT_S = 20.0


class Server:
    """A rebel-base on the loopback, ready."""

    def __init__(self, directory: Path, grace_s: float) -> None:
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(directory / "ready"))
            notified.settimeout(TIMEOUT_S)
            env = {"POD_DIR": str(directory), "CLUSTER_NAME": "cm-1", "POD_NAME": "rebel-base-1"}
            self.process = subprocess.Popen(
                workloads.resolve(("rebel-base", "--port", str(self.port), "--grace", str(grace_s))),
                env={**_inherited(), **env, "NOTIFY_SOCKET": str(directory / "ready")},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert notified.recv(100) == b"READY=1"

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), TIMEOUT_S)

    def counts(self) -> tuple[int, ...]:
        return COUNTS.unpack((self.directory / "counts").read_bytes())

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MESHD_TEST_")}


def _whole(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as file:
        return file.read()


def _ask(connection: socket.socket) -> tuple[str, str]:
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    return answering_pod(_whole(connection))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path, grace_s=0.3)
    yield started
    started.process.kill()
    started.process.communicate()


def test_it_answers_over_both_families_with_its_name_and_counts(server: Server) -> None:
    assert _ask(server.connect("127.0.0.1")) == ("cm-1", "rebel-base-1")
    assert _ask(server.connect("::1")) == ("cm-1", "rebel-base-1")
    assert server.counts() == (2, 2)


def test_its_counts_go_on_where_a_process_before_it_was_killed(tmp_path: Path) -> None:
    for answered in (1, 2):
        started = Server(tmp_path, grace_s=0.3)
        _ask(started.connect())
        assert started.counts() == (answered, answered)
        started.process.kill()
        started.process.communicate()
        (tmp_path / "ready").unlink()


def test_after_sigterm_it_finishes_what_is_open_and_accepts_until_the_grace_period_ends(
    server: Server,
) -> None:
    opened = server.connect()
    opened.sendall(b"GET / HT")
    assert "listening" in server.line()
    server.process.send_signal(signal.SIGTERM)
    assert "terminating" in server.line()
    assert _ask(server.connect()) == ("cm-1", "rebel-base-1")
    opened.sendall(b"TP/1.1\r\n\r\n")
    assert answering_pod(_whole(opened)) == ("cm-1", "rebel-base-1")
    assert server.process.wait(TIMEOUT_S) == 0
    assert server.counts() == (2, 2)
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_its_counts_survive_sigkill(server: Server) -> None:
    _ask(server.connect())
    server.process.kill()
    server.process.wait(TIMEOUT_S)
    assert server.counts() == (1, 1)


def test_an_x_wing_writes_down_every_request_and_calls_both_addresses_in_turn(
    server: Server, tmp_path: Path
) -> None:
    env = {"POD_DIR": str(tmp_path), "REBEL_BASE_SERVICE_HOSTS": "127.0.0.1,::1"}
    client = subprocess.Popen(
        workloads.resolve(("x-wing", "--service", "rebel-base", "--rate", "200")),
        env={**_inherited(), **env, "REBEL_BASE_SERVICE_PORT": str(server.port)},
        stdout=subprocess.PIPE,
    )
    log, seen = Log("c", tmp_path / "requests.log"), list[Request]()
    while len(seen) < 20:
        seen += log.new()
    client.send_signal(signal.SIGTERM)
    client.communicate(timeout=TIMEOUT_S)
    seen += log.new()
    assert {(request.cluster, request.pod, request.lost) for request in seen} == {
        ("cm-1", "rebel-base-1", "")
    }
    assert server.counts() == (len(seen), len(seen))
    families = [request.family for request in sorted(seen)]
    assert abs(families.count(4) - families.count(6)) <= 1


def test_a_request_that_nobody_answers_is_lost_with_its_reason_and_not_tried_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {
            "POD_DIR": str(tmp_path),
            "S_SERVICE_HOSTS": "127.0.0.1",
            "S_SERVICE_PORT": str(silent.getsockname()[1]),
        }
        client = subprocess.Popen(
            workloads.resolve(("x-wing", "--service", "s", "--rate", "5", "--deadline", "0.1")),
            env={**_inherited(), **env},
            stdout=subprocess.PIPE,
        )
        log, seen = Log("c", tmp_path / "requests.log"), list[Request]()
        while not seen:
            seen += log.new()
        client.send_signal(signal.SIGTERM)
        client.communicate(timeout=TIMEOUT_S)
        seen += log.new()
        silent.setblocking(False)
        connections = 0
        while True:
            try:
                silent.accept()[0].close()
            except BlockingIOError:
                break
            connections += 1
    assert {request.lost for request in seen} == {"deadline"}
    assert connections == len(seen)


INCOMPLETE = [
    (b"", "no-answer"),
    (b"HTTP/1.1 200 OK\r\nCont", "closed-early"),
    (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status-503"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncm-1\n", "cut-short"),
]


@pytest.mark.parametrize(("response", "reason"), INCOMPLETE)
def test_an_answer_that_is_not_whole_is_a_loss(response: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        answering_pod(response)

"""The shim: what a runtime gives it arrives at the agent, what the agent answers comes out; without an agent it says so."""

from __future__ import annotations

import json
import platform
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_backend import cni_shim
from meshd.servers.cni.question import VERSIONS

HEADER = struct.Struct(">II")
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "TRACEPARENT": "00-1-2-01"}


@pytest.fixture(scope="session")
def shim() -> Path:
    cni_shim.build()
    return cni_shim.target(platform.machine())


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(shim: Path) -> Run:
    def run_it(config: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [shim], input=config, env=environment, capture_output=True, check=False, timeout=20
        )

    return run_it


class Agent:
    """Listens at ``path``; keeps what it was asked and answers ``answer`` with exit status ``status``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.questions: list[tuple[bytes, bytes]] = []
        self.frame = HEADER.pack(2, 0) + b"{}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as stream:
                header = stream.read(HEADER.size)
                if not header:
                    return
                environment, config = HEADER.unpack(header)
                self.questions.append((stream.read(environment), stream.read(config)))
                connection.sendall(self.frame)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
        self._thread.join()
        self._listener.close()

    def config(self, **more: object) -> bytes:
        return json.dumps({"cniVersion": "1.1.0", "name": "mesh", "socket": str(self.path)} | more).encode()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path / "cni.sock")
    yield made
    made.close()


def test_both_machines_have_a_static_shim_of_64_kb_at_most() -> None:
    cni_shim.build()
    machines = {"x86_64": 62, "aarch64": 183}
    for machine, number in machines.items():
        content = cni_shim.target(machine).read_bytes()
        assert len(content) <= 64_000
        assert struct.unpack_from("<H", content, 18) == (number,)
        # No program header asks for an interpreter (PT_INTERP) or a library (PT_DYNAMIC).
        start, size, count = *struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54)
        kinds = {struct.unpack_from("<I", content, start + size * each)[0] for each in range(count)}
        assert kinds & {2, 3} == set()


def test_variables_and_configuration_arrive_as_they_were(agent: Agent, run: Run) -> None:
    odd = 'a "quoted" \\ back\tslash é'
    config = agent.config(plugins=[{"socket": "/nowhere"}], text=odd)
    done = run(config, CNI_ARGS=odd, PATH="/bin", **ADD)
    (environment, arrived) = agent.questions[0]
    assert json.loads(environment) == {**ADD, "CNI_ARGS": odd}
    assert arrived == config
    assert (done.stdout, done.returncode) == (b"{}", 0)


def test_a_configuration_of_a_megabyte_arrives_and_a_longer_one_is_refused(agent: Agent, run: Run) -> None:
    room = (1 << 20) - len(agent.config(text=""))
    assert run(agent.config(text="x" * room), **ADD).returncode == 0
    assert len(agent.questions[0][1]) == 1 << 20
    refused = run(agent.config(text="x" * (room + 1)), **ADD)
    assert (json.loads(refused.stdout)["code"], refused.returncode) == (7, 1)


def test_the_answer_and_the_exit_status_are_the_agents(agent: Agent, run: Run) -> None:
    answer = b'{"code":11}' + b" " * 300_000
    agent.frame = HEADER.pack(len(answer), 1) + answer
    done = run(agent.config(), **ADD)
    assert (done.stdout, done.returncode) == (answer, 1)


@pytest.mark.parametrize("command", ["ADD", "DEL", "STATUS"])
@pytest.mark.parametrize("kind", ["absent", "dead", "mute", "cut short", "lying"])
def test_an_agent_that_does_not_answer_is_an_error_that_names_the_socket(
    tmp_path: Path, run: Run, kind: str, command: str
) -> None:
    path = tmp_path / "agent.sock"
    frames = {"mute": b"", "cut short": HEADER.pack(10, 0) + b"{}", "lying": HEADER.pack(1 << 31, 0)}
    agent = Agent(path) if kind in frames else None
    if agent:
        agent.frame = frames[kind]
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    config = {"cniVersion": "0.4.0", "socket": str(path)}
    done = run(json.dumps(config).encode(), CNI_COMMAND=command)
    if agent:
        agent.close()
    said = json.loads(done.stdout)
    assert said["cniVersion"] == "0.4.0"
    assert said["code"] == (50 if command == "STATUS" else 11)
    assert said["msg"] == f"the meshd agent does not answer at {path}"
    assert said["details"]
    assert done.returncode == 1


def test_version_names_what_the_agent_understands_and_needs_no_agent(run: Run) -> None:
    done = run(b'{"cniVersion":"0.4.0"}', CNI_COMMAND="VERSION")
    assert json.loads(done.stdout) == {"cniVersion": VERSIONS[-1], "supportedVersions": list(VERSIONS)}
    assert done.returncode == 0


@pytest.mark.parametrize("bad", ["relative.sock", "/" + "x" * 108, "/a\\u0041", "/a\\"])
def test_a_socket_that_cannot_be_one_is_an_error_of_the_configuration(run: Run, bad: str) -> None:
    done = run(b'{"cniVersion":"1.0.0","socket":"' + bad.encode() + b'"}', **ADD)
    assert (json.loads(done.stdout)["code"], done.returncode) == (7, 1)


@pytest.mark.parametrize(
    "config", [b"", b"{", b'{"socket', b'{"socket":', b'"socket":"/x"', b"\0", b"[[[[", b'{"a":"\\']
)
def test_what_is_no_json_ends_in_an_error_and_not_in_a_crash(run: Run, config: bytes) -> None:
    done = run(config, **ADD)
    # No agent is at the default place of a test machine, or it refuses: either way there is an error to read.
    assert json.loads(done.stdout)["code"] in {6, 7, 11}
    assert done.returncode == 1


def test_no_variable_of_the_runtime_but_its_own_is_told(agent: Agent, run: Run) -> None:
    run(agent.config(), **ADD, CNICAL="x", CNI="y", TRACEPARENTS="z")
    assert set(json.loads(agent.questions[0][0])) == set(ADD)


def test_variables_of_more_than_64_kib_are_refused(agent: Agent, run: Run) -> None:
    done = run(agent.config(), **ADD, CNI_ARGS="x" * (64 << 10))
    assert json.loads(done.stdout)["code"] == 4

"""One real agent of a bench, driven as users drive it: a manifests directory, and the control API."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
import yaml

from meshd.api.v1 import (
    backend_pb2,
    backend_pb2_grpc,
    service_pb2,
    service_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from meshd.bench.places import BenchError, Place, Places
from meshd.bench.population import BACKEND_PORT, NAMESPACE, SERVICE_PORT, BenchService, manifests
from meshd.bench.workers import entering
from meshd.errors import KernelError
from meshd.kernel.maps import Map

TIMEOUT_S = 120.0
# Between looks at one service, which cost the agent little, and between looks at all.
LOOK_EVERY_S = 0.002
STATUS_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Programmed:
    """Seconds from a manifest file in place to all of it in the kernel, and from its acceptance by the mesh to the same.

    Both are upper bounds: accepted is the last look that saw nothing of the first service, settled the first status with
    nothing waiting, asked for once the last service was in the kernel.
    """

    from_file_s: float
    from_accepted_s: float


class Agent:
    """A `meshd` whose hooks act on the cgroup of ``place``; in its own process, on any CPU.

    ``options``: of its configuration, those that are not as every bench has them.
    """

    def __init__(self, places: Places, place: Place, options: Mapping[str, object] | None = None) -> None:
        self._name = place.name
        slug = place.cgroup.name
        run, state = places.run / f"{slug}-agent", places.state / slug
        self._manifests = run / "manifests"
        self._bpffs = places.bpffs(f"{slug}-bpf") / "meshd"
        self._manifests.mkdir(parents=True)
        self._log = run / "log"
        config = {
            "nodeName": "bench",
            "clusterName": "bench",
            "cgroup": str(place.cgroup),
            "bpffs": str(self._bpffs),
            "runDir": str(run),
            "stateDir": str(state),
            "manifests": str(self._manifests),
            **(options or {}),
        }
        path = run / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [str(Path(sys.executable).with_name("meshd")), "--config", str(path)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                entering(places.cgroup / "agents" / slug, place.client, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # No limit: a status with thousands of rows is larger than gRPC's default.
        self._channel = grpc.insecure_channel(
            f"unix:{run / 'meshd.sock'}", options=[("grpc.max_receive_message_length", -1)]
        )
        self._statuses = status_pb2_grpc.StatusServiceStub(self._channel)
        self._services = service_pb2_grpc.ServiceServiceStub(self._channel)
        self._backends = backend_pb2_grpc.BackendServiceStub(self._channel)
        self._wait_until_it_answers()

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT_S / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # The manifests directory

    def program(self, services: Iterable[BenchService]) -> Programmed:
        """Puts ``services`` (none of them known yet) in force, and waits for the kernel."""
        hidden = self._manifests / ".services.json"
        # The source hands objects over by name, so these are the first and the last one.
        in_order = sorted(services, key=lambda service: service.name)
        hidden.write_text(manifests(in_order))
        began = accepted = time.monotonic()
        hidden.rename(self._manifests / "services.json")
        while True:
            look = time.monotonic()
            if self._programmed(in_order[0]) is not None:
                break
            accepted = look
            self._check_time(began, f"no service of {len(in_order)} was accepted")
            time.sleep(LOOK_EVERY_S)
        while self._programmed(in_order[-1]) != service_pb2.PROGRAMMED_SETTLED:
            self._check_time(began, f"{len(in_order)} services were not in the kernel")
            time.sleep(LOOK_EVERY_S)
        self._until_all_settled(len(in_order), began)
        now = time.monotonic()
        return Programmed(now - began, now - accepted)

    def put(self, name: str, content: str) -> None:
        """Puts manifest file ``name`` in place as a whole."""
        hidden = self._manifests / f".{name}"
        hidden.write_text(content)
        hidden.rename(self._manifests / name)

    def clear(self) -> None:
        """Takes all services of the manifests away again and waits for the kernel."""
        (self._manifests / "services.json").unlink()
        self._until_all_settled(0, time.monotonic())

    def _until_all_settled(self, services: int, began: float) -> None:
        """Until nothing waits for the kernel, with ``services`` in force."""
        while True:
            status = self.status()
            if status.failed_count:
                first = status.failed[0]
                raise BenchError(f"meshd for {self._name} could not write {first.name}: {first.reason}")
            if status.services == services and not status.pending:
                return
            self._check_time(began, f"{status.services} services, {status.pending} changes waiting")
            # A status of thousands of services costs the agent tens of milliseconds: it is not asked for more often.
            time.sleep(STATUS_EVERY_S)

    def _programmed(self, service: BenchService) -> service_pb2.Programmed.ValueType | None:
        """Whether the kernel holds ``service``; None: the mesh does not know it yet."""
        request = service_pb2.GetServiceRequest(namespace=NAMESPACE, name=service.name)
        try:
            return self._services.GetService(request, timeout=TIMEOUT_S).service.status.programmed
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    # The API

    def apply(self, service: BenchService) -> None:
        """Creates ``service`` and its backends through the API; returns when the kernel holds them."""
        frontend = service_pb2.Frontend(
            address=service.address, port=SERVICE_PORT, protocol=service_pb2.PROTOCOL_TCP, port_name="http"
        )
        message = service_pb2.Service(namespace=NAMESPACE, name=service.name, frontends=[frontend])
        self._services.ApplyService(service_pb2.ApplyServiceRequest(service=message), timeout=TIMEOUT_S)
        for address in service.backends:
            self.add_backend(service, address)

    def add_backend(self, service: BenchService, address: str) -> None:
        """Returns when the kernel holds it."""
        port = backend_pb2.BackendPort(port_name="http", protocol=service_pb2.PROTOCOL_TCP, port=BACKEND_PORT)
        backend = backend_pb2.Backend(
            namespace=NAMESPACE, service=service.name, address=address, ports=[port]
        )
        request = backend_pb2.ApplyBackendRequest(backend=backend)
        self._backends.ApplyBackend(request, timeout=TIMEOUT_S)

    def remove_backend(self, service: BenchService, address: str) -> None:
        """Returns when the change is accepted: on disk and in the mesh, the kernel may hold it or not."""
        request = backend_pb2.DeleteBackendRequest(
            namespace=NAMESPACE, service=service.name, address=address, wait=False
        )
        self._backends.DeleteBackend(request, timeout=TIMEOUT_S)

    def settle(self, service: BenchService) -> None:
        """Returns when the kernel holds ``service`` as the mesh has it."""
        began = time.monotonic()
        while self._programmed(service) != service_pb2.PROGRAMMED_SETTLED:
            self._check_time(began, f"service {service.name} was not in the kernel")
            time.sleep(LOOK_EVERY_S)

    # What it has in the kernel

    def open_map(self, name: str) -> Map:
        """A map of the agent, from its pin; the caller closes it.

        Raises:
            KernelError: it has no such map.
        """
        # After the name comes the hash of the layout, in which there is no further underscore.
        pins = [
            pin for pin in (self._bpffs / "maps").glob(f"{name}_*") if pin.name.rpartition("_")[0] == name
        ]
        if not pins:
            raise KernelError("open", f"map {name} of the agent", errno.ENOENT)
        return Map.open_pinned(pins[0], name)

    def has_pinned(self, name: str) -> bool:
        """Whether it has pinned something of that name, anywhere."""
        return any(self._bpffs.rglob(name))

    # What it says of itself

    def status(self) -> status_pb2.GetStatusResponse:
        """The agent's status now."""
        return self._statuses.GetStatus(status_pb2.GetStatusRequest(), timeout=TIMEOUT_S)

    def resident_mib(self) -> float:
        """Memory of the process, all pages that are its own or shared, in MiB (VmRSS of proc(5))."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Seconds of CPU that the process and its threads have had (proc(5), stat: utime and stime)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _wait_until_it_answers(self) -> None:
        began = time.monotonic()
        while True:
            with contextlib.suppress(grpc.RpcError):
                self._statuses.GetStatus(status_pb2.GetStatusRequest(), timeout=1, wait_for_ready=True)
                return
            if self._process.poll() is not None:
                raise BenchError(
                    f"meshd for {self._name} ended with {self._process.returncode}:\n{self._last_words()}"
                )
            self._check_time(began, "it does not answer")

    def _check_time(self, began: float, what: str) -> None:
        if time.monotonic() - began > TIMEOUT_S:
            raise BenchError(
                f"meshd for {self._name}: {what} after {TIMEOUT_S:g} s; its log ends:\n{self._last_words()}"
            )

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])


@contextlib.contextmanager
def errors_of_the_api() -> Iterator[None]:
    """What an agent answers, or that it does not, as an error of the bench."""
    try:
        yield
    except grpc.RpcError as error:
        raise BenchError(f"meshd answers {error.code().name}: {error.details()}") from error

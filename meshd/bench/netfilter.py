"""Rules of the baselines in a path's client namespace, loaded by the programs that kube-proxy runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence

from meshd.bench.places import BenchError, Place, Places
from meshd.bench.workers import entering

PACKAGES = {"nft": "nftables", "iptables-restore": "iptables"}


def require() -> None:
    """Looks for the programs before minutes of measuring.

    Raises:
        BenchError: one is missing; names it and its package.
    """
    for program, package in PACKAGES.items():
        if shutil.which(program) is None:
            raise BenchError(
                f"{program} is not installed: install {package}, the rules it is compared with need it"
            )


def load(places: Places, place: Place, command: Sequence[str], rules: str) -> float:
    """Runs ``command`` on ``rules`` in the client namespace of ``place``: the seconds from its start to its end.

    Raises:
        BenchError: it was refused; with the first line of what the program says.
    """
    began = time.monotonic()
    done = subprocess.run(
        entering(places.cgroup / "netfilter", place.client, command),
        input=rules,
        text=True,
        capture_output=True,
        check=False,
    )
    taken = time.monotonic() - began
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BenchError(f"{place.name}: {command[0]} refuses the rules: {said[0]}")
    return taken

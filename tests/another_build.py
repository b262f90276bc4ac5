"""The object of a neighbouring build: its maps of services, affinities, pods and flows have other layouts than this tree's.

It is made of this tree's programs, and neither build knows the other's structs.
"""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from build_backend import bpf

MADE = bpf.ROOT / "build" / "another-build"
# Header -> the beginning of a struct, and what it begins with in the other build.
LAYOUTS = {
    "socket_lb.h": {
        "struct service {\n": "struct service {\n\t__u64 pad_of_another_build;\n",
        "struct slot {\n": "struct slot {\n\t__u32 pad_of_another_build;\n",
        # A field that this build has not.
        "struct affinity {\n": "struct affinity {\n\t__u64 used_times;\n",
    },
    "pod_network.h": {
        "struct pod {\n": "struct pod {\n\t__u64 pad_of_another_build;\n",
        "struct flow {\n": "struct flow {\n\t__u64 pad_of_another_build[3];\n",
    },
    "short_circuit.h": {
        "struct short_circuit_connection {\n": "struct short_circuit_connection {\n\t__u64 pad_of_another_build;\n",
        "struct short_circuit_watch {\n": "struct short_circuit_watch {\n\t__u64 pad_of_another_build;\n",
    },
}
# Maps that have another layout there.
MAPS = (
    "frontends",
    "slots",
    "affinities",
    "pods",
    "flows",
    "new_flows",
    "short_circuit_connections",
    "short_circuit_watches",
)


def other_object() -> Path:
    """Where the object is; compiled unless it is there."""
    MADE.mkdir(parents=True, exist_ok=True)
    with (MADE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.copytree(bpf.ROOT / "bpf", MADE / "bpf", dirs_exist_ok=True)
        for name, changes in LAYOUTS.items():
            header = MADE / "bpf" / "maps" / name
            text = header.read_text()
            for before, after in changes.items():
                assert text.count(before) == 1, before
                text = text.replace(before, after)
            header.write_text(text)
        made = MADE / "meshd.bpf.o"
        bpf.build(MADE, made)
        return made

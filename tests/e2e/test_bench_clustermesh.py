"""A bench of two small clusters is a whole one, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.kernel import cgroup
from meshd.lab.processes import tree

SMALL = ("--clusters", "2", "--services", "4", "--backends", "3", "--rate", "20", "--changes", "12")


@pytest.mark.needs("etcd")
def test_a_small_run_reports_start_changes_and_the_target_and_leaves_nothing(run_name: str) -> None:
    name = f"{run_name}cmesh"
    command = [sys.executable, "-m", "meshd.bench.cli", "clustermesh", "--name", name, "-o", "json", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    metrics = {row["metric"]: row["value"] for row in found["rows"]}
    assert {"first sync", "CPU of it", "change p50", "change p99"} <= metrics.keys()
    assert metrics["other changes"] > 0
    assert [target["limit"] for target in found["targets"]] == [250.0]
    group = cgroup.find_mount() / name
    paths = (group, Path("/run", name), Path("/var/lib", name))
    assert ([str(path) for path in paths if path.exists()], tree(group)) == ([], [])

"""What `meshctl bench cni` reports was measured on real plugins, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from build_backend import cni_shim
from meshd.bench import cni_plugins, places
from meshd.bench.places import BenchError
from meshd.kernel.netns import Netns
from tests.e2e.test_bench import traces

TINY = ("cni", "--pods", "6", "--crowd", "8", "-o", "json")


@pytest.mark.needs("command:/usr/lib/cni/bridge")
def test_a_run_reports_both_plugins_and_every_target_and_leaves_nothing(run_name: str) -> None:
    cni_shim.build()
    name = f"{run_name}c"
    command = [sys.executable, "-m", "meshd.bench.cli", *TINY, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["bench"], found["rounds"]) == ("cni", 6)
    metrics = {
        (path, f"{what} {quantile}")
        for path in ("meshd", "bridge")
        for what in ("ADD", "DEL")
        for quantile in ("p50", "p99")
    }
    assert {(row["path"], row["metric"]) for row in found["rows"]} == metrics | {("meshd", "memory")}
    assert all(row["value"] > 0 for row in found["rows"])
    assert [target["limit"] for target in found["targets"]] == [6.0, 15.0, 0.5, 6.0, 40.0]
    assert traces(name) == []


def test_namespaces_of_a_bench_that_was_killed_are_taken_away_by_the_next(run_name: str) -> None:
    prefix = f"{run_name}k"
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    name = f"{prefix}{gone.pid}"
    pods = Path("/run", name, "pods")
    Netns.create_named(pods / f"{name}-pod").close()
    assert traces(name) != []
    places.sweep(prefix)
    assert traces(name) == []
    assert name not in Path("/proc/self/mountinfo").read_text()


def test_without_the_baselines_plugins_the_bench_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni_plugins, "DIRECTORIES", (tmp_path,))
    with pytest.raises(BenchError, match="apt-get install containernetworking-plugins"):
        cni_plugins.require_plugins()

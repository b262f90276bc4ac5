"""`meshctl cni` on a node with pods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    options = {
        "podCidrs": ["10.1.1.0/24"],
        "confDir": str(tmp_path / "net.d"),
        "binDir": str(tmp_path / "bin"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"nodeName": "n1", "cni": options}))
    return path


def test_uninstall_refuses_while_pods_of_meshd_run(config: Path, tmp_path: Path) -> None:
    meshctl = f"{sys.executable} -m meshd.ctl.main cni"
    script = f"""
        set -e
        {meshctl} install --config {config}
        ip link add mpod0123 type bridge
        ip link set mpod0123 alias default/one
        if {meshctl} uninstall --config {config}; then exit 1; fi
        if {meshctl} uninstall --config {config} --drain --timeout 0.3; then exit 1; fi
        test -e {tmp_path}/net.d/00-meshd.conflist
        {meshctl} uninstall --config {config} --leave-running
        test ! -e {tmp_path}/net.d/00-meshd.conflist
        ip link show mpod0123
    """
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 pod of meshd (default/one) run here" in done.stderr
    assert "the runtime still has 1 pod of meshd (default/one)" in done.stderr


def test_drain_waits_until_the_runtime_has_deleted_the_last_pod(config: Path, tmp_path: Path) -> None:
    meshctl = f"{sys.executable} -m meshd.ctl.main cni"
    # The runtime still needs the configuration for its DEL: it is there when the pod goes.
    script = f"""
        set -e
        {meshctl} install --config {config}
        ip link add mpod0123 type bridge
        {meshctl} uninstall --config {config} --drain 2>{tmp_path}/said &
        until grep -q "waiting for 1 pod of meshd (mpod0123)" {tmp_path}/said; do sleep 0.01; done
        test -e {tmp_path}/net.d/00-meshd.conflist
        ip link del mpod0123
        wait $!
        test ! -e {tmp_path}/net.d/00-meshd.conflist
    """
    command = ["unshare", "--net", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

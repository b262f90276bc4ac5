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
        mount -t sysfs none /sys
        {meshctl} install --config {config}
        ip link add mpod0123 type bridge
        if {meshctl} uninstall --config {config}; then exit 1; fi
        test -e {tmp_path}/net.d/00-meshd.conflist
        {meshctl} uninstall --config {config} --leave-running
        test ! -e {tmp_path}/net.d/00-meshd.conflist
        ip link show mpod0123
    """
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 pods of meshd run here" in done.stderr

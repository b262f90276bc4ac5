"""Every program of the object is in the kernel, or known to be left out there, with what the kernel lacks."""

from __future__ import annotations

from pathlib import Path

from meshd.config import Cni, Config
from meshd.dataplane.opening import left_out, open_object
from meshd.kernel import features
from meshd.kernel.object import BpfObject


def test_every_program_loads_or_is_left_out_for_what_this_kernel_lacks(bpffs: Path) -> None:
    config = Config(node_name="node-1", bpffs=bpffs, cni=Cni(pod_cidrs=("10.77.0.0/24", "fd77::/64")))
    missing = {feature.name: feature.reason for feature in features.probe() if not feature.present}
    without = left_out(missing)
    opened = open_object(config, without)
    loaded = set(opened.loaded.programs)
    opened.loaded.close()
    with BpfObject.open() as bpf:
        assert loaded | set(without) == set(bpf.programs())
    assert not loaded & set(without)
    assert all(missing[needed] for needed in without.values())

"""The BPF object in the kernel: with the programs and maps of the features that this node's configuration wants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from meshd.config import Config
from meshd.dataplane.feature import Feature
from meshd.dataplane.features import FEATURES
from meshd.dataplane.layouts import Layouts, layouts
from meshd.dataplane.takeover import Takeover, find, is_needed
from meshd.kernel.btf import Btf
from meshd.kernel.object import BpfObject, Loaded


def map_pins(config: Config) -> Path:
    """Where the maps of this agent are pinned."""
    return config.bpffs / "maps"


def link_pins(config: Config) -> Path:
    """Where the links of this agent are pinned."""
    return config.bpffs / "links"


@dataclass(frozen=True, slots=True)
class Opened:
    """The object in the kernel, and the features that are in it. ``observed`` is what the maps that the agent writes held
    before this agent wrote anything, ``takeover`` what programs of another build still write."""

    loaded: Loaded
    btf: Btf
    layouts: Layouts
    features: tuple[Feature, ...]
    observed: dict[str, dict[bytes, bytes]]
    takeover: Takeover


def left_out(missing: Iterable[str]) -> dict[str, str]:
    """Program -> the first kernel feature of those ``missing`` that it cannot do without."""
    absent = set(missing)
    return {
        program: needed
        for feature in FEATURES
        for program, needs in feature.needs.items()
        for needed in reversed(needs)
        if needed in absent
    }


def open_object(config: Config, without: Iterable[str]) -> Opened:
    """Loads the BPF object ``without`` some programs, with the maps that are pinned already if their layout is the same, and
    with the rows of agents in those whose layout is another.

    Raises:
        VerifierError, KernelError, ConfigError: nothing was attached, what is running goes on.
    """
    source = BpfObject.open(config.bpf_object) if config.bpf_object else BpfObject.open()
    with source as bpf:
        # An object of another build may lack a feature as a whole.
        built = set(bpf.maps())
        absent = set(without)
        wanted = tuple(
            each
            for each in FEATURES
            if each.is_wanted(config)
            and set(each.maps) <= built
            and not (each.switch and absent & set(each.programs))
        )
        for feature in FEATURES:
            if feature not in wanted:
                bpf.leave_out_maps(built & {*feature.maps, *feature.kernel_maps})
        for feature in wanted:
            bpf.set_max_entries(feature.sizes(config))
            bpf.set_globals(feature.knobs(config))
            if feature.switch:
                bpf.set_globals({feature.switch: 1})
            if feature.beside and is_needed(map_pins(config), bpf.btf, feature.kernel_maps):
                bpf.set_globals({feature.beside: 1})
        programs = {name for feature in wanted for name in feature.programs} & set(bpf.programs())
        bpf.load_only(programs - absent)
        loaded = bpf.load(pins=map_pins(config))
        names = [name for feature in wanted for name in feature.maps]
        takeover = find(map_pins(config), bpf.btf, loaded.maps, loaded.reused)
        takeover.copy(names)
        observed = {name: dict(loaded.maps[name].items()) for name in names}
        return Opened(loaded, bpf.btf, layouts(bpf.btf), wanted, observed, takeover)

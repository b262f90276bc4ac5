"""What a feature of the dataplane is to the parts that serve all of them: its maps, programs, knobs and plans.

Nothing else of the dataplane knows which features there are; `features.py` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshd.config import Config
from meshd.dataplane.delta import Delta
from meshd.dataplane.devices import Devices
from meshd.dataplane.drills import Drills
from meshd.dataplane.held import Held
from meshd.dataplane.layouts import Layouts
from meshd.dataplane.returns import Returns
from meshd.dataplane.rows import Plan
from meshd.kernel.btf import Btf
from meshd.model import Workload
from meshd.state import Mesh, PlanKey

# What the plan key of that name, of the kind that the rule is for, wants now.
Rule = Callable[[Mesh, str], Plan]


@dataclass(frozen=True, slots=True)
class Context:
    """What plans depend on besides the mesh.

    ``held``: what the kernel held at the start. ``workload``: the one of that name that is in force, with the cookie of its
    namespace. ``devices``: what is known now of this node's links and addresses. ``netns_id``: what the node's namespace
    calls a workload's. ``node_cookie``: of the node's own namespace. ``returns``: clusters on their way back.
    ``drills``: what is drilled.
    """

    config: Config
    btf: Btf
    layouts: Layouts
    held: Held
    workload: Callable[[Mesh, str], tuple[Workload | None, int]]
    devices: Devices
    netns_id: Callable[[str], int]
    node_cookie: int
    returns: Returns
    drills: Drills


@dataclass(frozen=True, slots=True)
class Feature:
    """One word. A feature that is not wanted has neither maps nor programs in the kernel.

    ``maps``: those the agent writes, in the order in which rows are written (and the reverse of which they are deleted in).
    ``kernel_maps``: those that only programs write. ``retired``: rows go after a grace period (retire.py). ``contested``: a
    row belongs to the first plan key that wants it, others are told. ``needs``: program -> kernel features without which it
    is left out. ``sizes``: map -> entries. ``knobs``: globals of the programs. ``rules``: by the kind of the plan key.
    ``beside``: a knob that is 1 where another build's programs, with other layouts of ``kernel_maps``, go on behind ours.
    ``switch``: a knob, also of other features' programs, that is 1 where this one is loaded: as a whole, or not at all.
    ``generation``: a map of one number that counts the changes of this feature's rows (generation.py); none where empty.
    ``advances``: the program that counts in it, where others do as well; none where empty.
    ``unwanted``: map -> rows that nobody wants and that may go, given the plan keys that failed (sweep.py).
    """

    word: str
    maps: tuple[str, ...]
    kernel_maps: tuple[str, ...]
    programs: tuple[str, ...]
    is_wanted: Callable[[Config], bool]
    sizes: Callable[[Config], Mapping[str, int]]
    knobs: Callable[[Config], Mapping[str, int]]
    rules: Callable[[Context], Mapping[str, Rule]]
    unwanted: Callable[[Context, Mesh, Delta, set[PlanKey]], dict[str, set[bytes]]]
    needs: Mapping[str, tuple[str, ...]]
    retired: frozenset[str] = frozenset()
    contested: frozenset[str] = frozenset()
    generation: str = ""
    advances: str = ""
    beside: str = ""
    switch: str = ""


def merged(plans: list[Plan]) -> Plan:
    """One plan from those of several features, none of which writes another's maps."""
    if len(plans) == 1:
        return plans[0]
    made = Plan({}, takers=next((plan.takers for plan in plans if plan.takers is not None), None))
    for plan in plans:
        made.rows.update(plan.rows)
        made.served.update(plan.served)
    return made

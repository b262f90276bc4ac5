"""The ladder of a service: whose backends take its traffic, rung after rung.

    local, zone, region, cluster:cm-2 weight 3 + cluster:cm-3 weight 1 capacity 40, any

A comma separates rungs, ``+`` joins targets on one. A backend belongs to the first target that speaks of it. A ladder is a
preference: backends of which none speaks serve if no others do.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import zip_longest
from typing import NamedTuple, TypeAlias

# RFC 1123; what a cluster may be called (Cilium limits names to 32 characters).
_CLUSTER_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_PREFIX = "cluster:"
# What may be said of a target, each 1 to this. Above 100 percent fewer than all of its backends can take everything.
_OPTIONS = {"weight": 65535, "capacity": 1000}
# More is a mistake; every change of a backend climbs all of them.
TARGETS_MAX = 32
# Of a slow return.
RAMP_MAX_S = 86400


class Where(Enum):
    """Where backends of a target are, as seen from the node that chooses."""

    NODE = "node"
    """On this node."""
    ZONE = "zone"
    """In this node's zone, of whatever cluster."""
    REGION = "region"
    """On nodes of this node's region, of whatever cluster."""
    LOCAL = "local"
    """In this node's cluster."""
    REMOTE = "remote"
    """In other clusters."""
    CLUSTER = "cluster"
    """In the cluster of that name, which may be this node's."""
    ANY = "any"
    """Anywhere."""


class Target(NamedTuple):
    """Some backends of a service. ``cluster``: of `Where.CLUSTER` only.

    ``weight`` 0: not said; the backends' own decide. ``capacity_percent``: how much of the service's traffic they can take
    while all of them are healthy; 0: not said.
    """

    where: Where
    cluster: str = ""
    weight: int = 0
    capacity_percent: int = 0

    @property
    def place(self) -> str:
        """Without what is said of it: ``cluster:cm-2``."""
        return _PREFIX + self.cluster if self.where is Where.CLUSTER else self.where.value

    def __str__(self) -> str:
        said = (("weight", self.weight), ("capacity", self.capacity_percent))
        return " ".join([self.place, *(f"{name} {number}" for name, number in said if number)])


# Targets that share what the rung takes: by their weights if they have some, else by those of their backends.
Rung: TypeAlias = tuple[Target, ...]
Ladder: TypeAlias = tuple[Rung, ...]


def parse_ladder(text: str) -> Ladder:
    """The ladder that ``text`` describes.

    Raises:
        ValueError: a part of it is none; the message names the part and the reason.
    """
    rungs = tuple(_rung(part) for part in text.split(","))
    targets = [target.place for rung in rungs for target in rung]
    for index, named in enumerate(targets):
        if named in targets[:index]:
            raise ValueError(f"{named} is there twice; what is on one rung is not on another")
    if len(targets) > TARGETS_MAX:
        raise ValueError(f"{len(targets)} targets; at most {TARGETS_MAX} are useful")
    return rungs


def speaks_of(ladder: Ladder, where: Where) -> bool:
    """Whether a target of ``ladder`` is ``where``."""
    return any(target.where is where for rung in ladder for target in rung)


def format_ladder(ladder: Ladder) -> str:
    """The text that `parse_ladder` makes ``ladder`` of."""
    return ", ".join(" + ".join(map(str, rung)) for rung in ladder)


def _rung(text: str) -> Rung:
    rung = tuple(_target(part) for part in text.split("+"))
    if len({target.weight > 0 for target in rung}) > 1:
        raise ValueError(f"{text.strip()!r}: either all that share a rung have a weight, or none has")
    return rung


def _target(text: str) -> Target:
    words = text.split()
    if not words:
        raise ValueError("a rung is empty; commas separate rungs, + joins those on one")
    where, cluster = _where(words[0])
    said: dict[str, int] = {}
    for name, number in zip_longest(words[1::2], words[2::2], fillvalue=""):
        most = _OPTIONS.get(name, 0)
        if not most or name in said or not number:
            follow = f"after {words[0]} only 'weight NUMBER' and 'capacity PERCENT' may follow"
            raise ValueError(f"{text.strip()!r}: {follow}")
        if not (number.isascii() and number.isdecimal() and 1 <= int(number[:9]) <= most):
            raise ValueError(f"{text.strip()!r}: {name} {number} is not a number from 1 to {most}")
        said[name] = int(number)
    return Target(where, cluster, said.get("weight", 0), said.get("capacity", 0))


def _where(word: str) -> tuple[Where, str]:
    if word.startswith(_PREFIX):
        name = word.removeprefix(_PREFIX)
        if not _CLUSTER_NAME.fullmatch(name):
            raise ValueError(f"{word!r}: {name!r} is no name of a cluster")
        return Where.CLUSTER, name
    if word == Where.CLUSTER.value or word not in {each.value for each in Where}:
        known = ", ".join(each.value for each in Where if each is not Where.CLUSTER)
        raise ValueError(f"{word!r} is not one of {known}, {_PREFIX}NAME")
    return Where(word), ""

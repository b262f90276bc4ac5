"""Many clusters, one view: which backends of which cluster serve a service here. Pure.

The rules are those of Cilium's backend selection. Affinity is a preference, so it never leaves nothing to
choose from while some backend could serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from clustermesh.sharing import Affinity, Sharing

BackendT = TypeVar("BackendT")


class Health(Enum):
    """ACTIVE serves; TERMINATING still serves but is about to go; UNHEALTHY does not."""

    ACTIVE = "active"
    TERMINATING = "terminating"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Candidate(Generic[BackendT]):
    """A backend (any type) of one cluster, with its health as seen here."""

    backend: BackendT
    health: Health = Health.ACTIVE


@dataclass(frozen=True, slots=True)
class Choice(Generic[BackendT]):
    """The backends to use, those of the own cluster first, then by cluster name; and which side they come
    from.
    """

    backends: tuple[Candidate[BackendT], ...]
    uses_local: bool
    uses_remote: bool


def choose(
    sharing: Sharing, own_cluster: str, candidates: Mapping[str, Sequence[Candidate[BackendT]]]
) -> Choice[BackendT]:
    """Which of ``candidates`` (cluster name -> its backends of this service) serve the service in
    ``own_cluster``.

    Not global: own ones only. Affinity none: all. local: own ones, the others while no own one is active.
    remote: the others, own ones while no other is healthy.
    """
    local = tuple(candidates.get(own_cluster, ()))
    remote = tuple(
        candidate for name in sorted(candidates) if name != own_cluster for candidate in candidates[name]
    )
    if not sharing.is_global:
        return Choice(local, uses_local=True, uses_remote=False)
    uses_local, uses_remote = _sides(sharing.affinity, local, remote)
    chosen = (local if uses_local else ()) + (remote if uses_remote else ())
    if not any(map(_serves, chosen)):
        # A preference must not turn away what could serve.
        chosen, uses_local, uses_remote = local + remote, True, True
    return Choice(chosen, uses_local, uses_remote)


def _sides(
    affinity: Affinity, local: Sequence[Candidate[BackendT]], remote: Sequence[Candidate[BackendT]]
) -> tuple[bool, bool]:
    if affinity is Affinity.LOCAL:
        # A terminating own backend is kept, but its service already needs the others.
        own_active = any(candidate.health is Health.ACTIVE for candidate in local)
        return True, not own_active and any(map(_serves, remote))
    if affinity is Affinity.REMOTE:
        return not any(map(_serves, remote)) and any(map(_serves, local)), True
    return True, True


def _serves(candidate: Candidate[BackendT]) -> bool:
    return candidate.health is not Health.UNHEALTHY

"""A backend that may be chosen, and the place of the clients that it is chosen for."""

from __future__ import annotations

from typing import NamedTuple

from meshd.model import Backend, Frontend, OnStale


class Place(NamedTuple):
    """Where clients are: this node, its zone and region (empty: not known), and its cluster."""

    node: str
    zone: str = ""
    cluster: str = ""
    region: str = ""


class Candidate(NamedTuple):
    """A backend as one source names it; ``remote``: it runs in another cluster.

    ``reachable``: not known to be out of reach. One that is not stays alive: who is connected to it is left alone, unless
    it is ``lost``, which is confirmed, and the service asks for it.
    ``region``: of its node; empty: not known, or nobody asks.
    ``on_stale``: how it may be used though nobody vouches for it; KEEP also where somebody does.
    """

    backend: Backend
    source: str
    remote: bool
    reachable: bool = True
    on_stale: OnStale = OnStale.KEEP
    lost: bool = False
    region: str = ""


class Able(NamedTuple):
    """A frontend with its candidates. ``external``: one of `Service.external`."""

    frontend: Frontend
    external: bool
    candidates: list[Candidate]


def is_on_node(candidate: Candidate, node: str) -> bool:
    """A remote cluster's backends are never local, whatever its nodes are called."""
    return not candidate.remote and candidate.backend.node == node

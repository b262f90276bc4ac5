"""Whether the agent can do its work: set by the parts that know, served by health.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Readiness:
    """``reason``: why not, a sentence; empty: ready."""

    reason: str = "starting"

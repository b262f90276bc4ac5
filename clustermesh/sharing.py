"""What a service's annotations say about other clusters. Pure.

Cilium's names and their older aliases, and the same under ``meshd.io/``; where several are set, the first
that is listed here counts. The namespace has a say too: a service in a namespace that is not global is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

GLOBAL = ("meshd.io/global", "service.cilium.io/global", "io.cilium/global-service")
SHARED = ("meshd.io/shared", "service.cilium.io/shared", "io.cilium/shared-service")
AFFINITY = ("meshd.io/affinity", "service.cilium.io/affinity", "io.cilium/service-affinity")
NAMESPACE_GLOBAL = ("meshd.io/global-namespace", "clustermesh.cilium.io/global")


class Affinity(StrEnum):
    """Which clusters' backends are preferred: none, those of this cluster, or those of the others."""

    NONE = "none"
    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class Sharing:
    """``is_global``: backends of other clusters are used; ``shared``: ours are offered to them.

    ``problems``: what could not be understood and was passed over, one sentence each.
    """

    is_global: bool = False
    shared: bool = False
    affinity: Affinity = Affinity.NONE
    problems: tuple[str, ...] = field(default=())


def parse_sharing(
    annotations: Mapping[str, str],
    namespace_annotations: Mapping[str, str] | None = None,
    *,
    namespaces_are_global: bool = True,
) -> Sharing:
    """What ``annotations`` of a service and those of its namespace say.

    ``namespaces_are_global``: what holds for a namespace that says nothing. A service is shared if it is
    global, unless told otherwise. Words that mean nothing leave the default and are named in ``problems``.
    """
    problems: list[str] = []
    in_global_namespace = _flag(
        namespace_annotations or {}, NAMESPACE_GLOBAL, namespaces_are_global, problems
    )
    is_global = _flag(annotations, GLOBAL, False, problems) and in_global_namespace
    shared = _flag(annotations, SHARED, True, problems) and is_global
    return Sharing(is_global, shared, _affinity(annotations, problems), tuple(problems))


def _find(annotations: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str] | None:
    return next(((name, annotations[name].strip().lower()) for name in names if name in annotations), None)


def _flag(annotations: Mapping[str, str], names: tuple[str, ...], default: bool, problems: list[str]) -> bool:
    found = _find(annotations, names)
    if found is None:
        return default
    name, word = found
    if word not in {"true", "false"}:
        problems.append(f"{name}: {word[:40]!r} is neither true nor false; taken as {str(default).lower()}")
        return default
    return word == "true"


def _affinity(annotations: Mapping[str, str], problems: list[str]) -> Affinity:
    name, word = _find(annotations, AFFINITY) or ("", "none")
    try:
        return Affinity(word)
    except ValueError:
        problems.append(f"{name}: {word[:40]!r} is none of none, local, remote; taken as none")
        return Affinity.NONE

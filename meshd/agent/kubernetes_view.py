"""The API server as a source, where it is configured, and what the servers show of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshd.config import Config
from meshd.model import Address
from meshd.servers.introspection import Figure, Sample
from meshd.state import Mesh

if TYPE_CHECKING:
    from meshd.sources.kubernetes.source import KubernetesSource

# Of the source's objects; its module is imported only where it is used.
KUBERNETES = "kubernetes"


def kubernetes_source(mesh: Mesh, config: Config) -> KubernetesSource | None:
    """None: the configuration names no API server."""
    if not config.kubernetes.is_used:
        return None
    from meshd.sources.kubernetes.source import KubernetesSource  # noqa: PLC0415 - aiohttp is a heavy import

    return KubernetesSource(mesh, config)


def api_servers_of(config: Config) -> list[Address]:
    """Addresses of API servers that the configuration names."""
    if not config.kubernetes.is_used:
        return []
    from meshd.sources.kubernetes.source import api_servers  # noqa: PLC0415 - as above

    return [address for address, _ in api_servers(config.kubernetes.api_server.endpoints)]


def source_problems(source: KubernetesSource | None) -> list[str]:
    """What it cannot reach or use, each as one sentence."""
    return source.problems() if source is not None else []


def source_figures(source: KubernetesSource | None) -> Sequence[Figure]:
    """How each resource is read, for as long as it is."""
    health = source.health if source is not None else []
    now_s = time.time()
    away = [max(now_s - each.away_since_s, 0.0) if each.away_since_s is not None else 0.0 for each in health]
    samples = [
        tuple(Sample(value, {"resource": each.resource}) for value, each in zip(values, health, strict=True))
        for values in (away, [float(each.lists) for each in health], [float(each.watches) for each in health])
    ]
    return [
        Figure("kubernetes_away_seconds", "For how long a resource of the API server is out of reach; 0: it is not.",
               "gauge", samples[0]),
        Figure("kubernetes_lists", "Complete lists of a resource that the API server gave.", "counter", samples[1]),
        Figure("kubernetes_watches", "Watches of a resource that the API server granted.", "counter", samples[2]),
    ]  # fmt: skip

"""A site that runs: its clusters, and the world around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scripts.kubernetes import layout
from scripts.kubernetes.cluster import RunningCluster, answer
from scripts.kubernetes.errors import SiteError
from scripts.kubernetes.processes import Started
from scripts.kubernetes.removal import remove

Say = Callable[[str], None]
PROXY_MODES = ("nftables", "iptables")


@dataclass(frozen=True, slots=True)
class Wanted:
    """``clusters``: how many nodes each has; ``proxy``: the mode of the kube-proxy on every node, None: there is none;
    ``pods_v4``: the length of each node's IPv4 network of pods."""

    clusters: Sequence[int] = (2,)
    proxy: str | None = None
    pods_v4: int = 24


class RunningSite:
    """``clusters``: in their order."""

    def __init__(self, place: layout.Site, started: Started, clusters: Sequence[RunningCluster]) -> None:
        self.place = place
        self.started = started
        self.clusters = clusters

    @property
    def enter_outside(self) -> tuple[str, ...]:
        """The words before a command that shall run in the world outside."""
        return ("nsenter", f"--net={self.place.outside}", "--")

    def run_outside(self, *command: str, check: bool = True) -> str:
        """What ``command`` prints in the world outside.

        Raises:
            SiteError: it failed, and ``check``; carries what it said.
        """
        return answer([*self.enter_outside, *command], check=check)


@contextmanager
def site(name: str, wanted: Wanted, say: Say = lambda _: None) -> Iterator[RunningSite]:
    """A site whose API servers are ready and whose nodes are registered, gone afterwards.

    The nodes wait for a network: nobody has installed one.
    """
    from scripts.kubernetes.making import make  # noqa: PLC0415 - which names what is made after this

    place = place_of(name)
    started = Started()
    remove(place)
    try:
        yield make(place, wanted, started, say)
    finally:
        remove(place)
        started.reap_all()


def place_of(name: str) -> layout.Site:
    """Where site ``name`` is.

    Raises:
        SiteError: no site can be called so.
    """
    if not layout.NAME.fullmatch(name):
        raise SiteError(
            f"{name!r} is no name for a site: one to ten small letters and digits, a letter first"
        )
    return layout.Site(name)

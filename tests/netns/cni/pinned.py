"""The maps of an agent, behind its back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshd.kernel.maps import Map
from tests.netns.cni.node import CniNode


@contextmanager
def pinned(node: CniNode, name: str) -> Iterator[Map]:
    """A map of the agent; after the name in its pin's comes the hash of the layout."""
    [pin] = [
        each
        for each in (node.agent.bpffs / "node" / "maps").iterdir()
        if each.name.rpartition("_")[0] == name
    ]
    opened = Map.open_pinned(pin)
    try:
        yield opened
    finally:
        opened.close()

"""What the kernel held when the agent started: it speaks for sources that have not listed since.

Rows name the number of their source, and the `sources` map what the number means. A source that has not finished its first
complete list, and of which no journal was found either, has its backends taken from here, so that planning a service
again for another reason does not lose them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from meshd.dataplane.layouts import Endpoint, Layouts


class HeldBackend(NamedTuple):
    endpoint: Endpoint
    weight: int
    source: str


class Held:
    """Backends by packed frontend, and the sources of all rows, as the maps had them at the start."""

    def __init__(self, layouts: Layouts, observed: Mapping[str, Mapping[bytes, bytes]]) -> None:
        self._layouts = layouts
        self._slots = self._by_list(observed)
        rows = {key: layouts.service.decode(value) for key, value in observed.get("frontends", {}).items()}
        self._lists = {key: row.list for key, row in rows.items()}
        self._owners = {key: row.source for key, row in rows.items()}
        self.source_names = {
            layouts.u32.decode(key): layouts.source_name.decode(value).name.decode(errors="replace")
            for key, value in observed.get("sources", {}).items()
        }

    def owner(self, frontend: bytes) -> str | None:
        """The source whose service had this packed frontend."""
        return self.source_names.get(self._owners.get(frontend, 0))

    def backends(self, frontend: bytes) -> list[HeldBackend]:
        """The backends of the list that this packed frontend had."""
        number = self._lists.get(frontend)
        if not number:
            return []
        found = []
        for value in self._slots.get((frontend, number), ()):
            slot = self._layouts.slot.decode(value)
            source = self.source_names.get(slot.source)
            if source is not None:
                found.append(HeldBackend(slot.backend, slot.weight, source))
        return found

    def release(self) -> None:
        """Every source has spoken for itself: forget."""
        self._slots.clear()
        self._lists.clear()
        self._owners.clear()

    def _by_list(self, observed: Mapping[str, Mapping[bytes, bytes]]) -> dict[tuple[bytes, int], list[bytes]]:
        found: dict[tuple[bytes, int], list[bytes]] = {}
        for key, value in observed.get("slots", {}).items():
            slot_key = self._layouts.slot_key.decode(key)
            frontend = self._layouts.endpoint.encode(slot_key.frontend)
            found.setdefault((frontend, slot_key.list), []).append(value)
        return found

"""The directory of peers as it is looked at again and again, and the cluster ids that its peers say they have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from clustermesh.errors import DirectoryUnreadable, PeerFileError
from clustermesh.peers import Peer, read_directory

log = structlog.get_logger()


class PeerDirectory:
    """The peers of cluster ``own_name`` in ``directory``.

    ``error``: why it cannot be read, "" while it can. ``refused``: files that cannot be used, by the name of their peer; the
    last good version of each stays.
    """

    def __init__(self, directory: Path, own_name: str) -> None:
        self._directory = directory
        self._own_name = own_name
        self._missing: set[str] = set()
        self.error = "not read yet"
        self.refused: Mapping[str, PeerFileError] = {}

    def look(self, known: Mapping[str, Peer]) -> dict[str, Peer] | None:
        """All peers by name, where ``known`` are those so far; None: it cannot be read, and those stay.

        A file that is just being rewritten looks removed for a moment; only a second look makes it so.
        """
        try:
            scan = read_directory(self._directory, self._own_name, known)
        except DirectoryUnreadable as error:
            if self.error != error.reason:
                log.warning("peer directory unreadable", directory=str(self._directory), reason=error.reason)
            self.error = error.reason
            return None
        self.error = ""
        self._tell_refused(scan.refused)
        missing = known.keys() - scan.peers.keys()
        kept = {name: known[name] for name in missing - self._missing}
        self._missing = set(missing)
        return {**scan.peers, **kept}

    def _tell_refused(self, refused: Mapping[str, PeerFileError]) -> None:
        for name, error in refused.items():
            if name not in self.refused or self.refused[name].reason != error.reason:
                log.error(
                    "peer file refused, its last good version stays", path=error.path, reason=error.reason
                )
        self.refused = refused


class ClaimedIds:
    """Which cluster has which id: no two have the same."""

    def __init__(self, taken: Mapping[int, str] | None = None) -> None:
        self._names = dict(taken or {})

    def claim(self, name: str, cluster_id: int) -> str | None:
        """Reserve ``cluster_id`` for ``name``, which gives up another; who has it if somebody else does."""
        holder = self._names.get(cluster_id, name)
        if holder != name:
            return holder
        self.release(name)
        self._names[cluster_id] = name
        return None

    def release(self, name: str) -> None:
        """``name`` has none."""
        self._names = {number: other for number, other in self._names.items() if other != name}

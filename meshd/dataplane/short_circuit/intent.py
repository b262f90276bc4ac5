"""Whether the short circuit is to be on, as somebody said last: of this node, and of its cluster. Kept on disk, so that a
node that was switched off stays so after a boot, and without its cluster's etcd."""

from __future__ import annotations

import json
import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

FILE = "short-circuit.json"


class Intent:
    """``directory``: the agent's state. On only where neither the node nor its cluster was switched off."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self.node_on = True
        self.cluster_on = True
        self._load()

    @property
    def is_on(self) -> bool:
        return self.node_on and self.cluster_on

    def set(self, *, node: bool | None = None, cluster: bool | None = None) -> None:
        """Says it of one or both; what is None stays.

        Raises:
            OSError: it could not be written down; it is in force until the agent ends.
        """
        self.node_on = self.node_on if node is None else node
        self.cluster_on = self.cluster_on if cluster is None else cluster
        partial = self._path.with_suffix(".new")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as file:
            json.dump({"node": self.node_on, "cluster": self.cluster_on}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def _load(self) -> None:
        try:
            said = json.loads(self._path.read_text())
            self.node_on, self.cluster_on = bool(said["node"]), bool(said["cluster"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Nobody knows what was meant: TCP is never wrong.
            log.error("what was said of the short circuit cannot be read: it is off", reason=str(error))
            self.node_on = False

"""Every exception of clustermesh, as one tree, so that whoever handles one can see what else there is.

ClustermeshError
├── OptionsError        options that contradict each other; nothing was started
├── InvalidRecord       one value in etcd (or one to be written) cannot be used: key, field, reason
│   └── NotJudgedYet    it is looked at again in a moment, with all others: nothing is said of it now
├── PeerFileError       one file of the peer directory cannot be used: path, reason
├── DirectoryUnreadable the peer directory could not be read completely; what was known still holds
├── MembershipError     this cluster cannot be made part of a mesh like that; nothing was changed
├── PeerRefused         a peer we reach but must not connect to (its id, its limits): cluster, reason
└── KvError             an operation on etcd failed: operation, key, reason
    ├── KvUnavailable   no endpoint answered in time; the operation may or may not have happened
    ├── KvRefused       etcd answered and said no; repeating it changes nothing
    ├── LeaseLost       the lease is gone (or must be taken as gone); its keys may vanish
    ├── Compacted       the watch cannot be resumed without a gap; list again
    └── StoreReplaced   another or an emptied etcd answers; nothing follows from what it does not hold
"""

from __future__ import annotations


class ClustermeshError(Exception):
    """Base of everything clustermesh raises on purpose."""


class OptionsError(ClustermeshError):
    """Options contradict each other; the sentence says which and what would be right."""


class InvalidRecord(ClustermeshError):
    """The record at ``key`` cannot be used because of ``field``; every other record stays in force."""

    def __init__(self, key: str, field: str, reason: str) -> None:
        self.key = key
        self.field = field
        self.reason = reason
        super().__init__(f"{key}: {field}: {reason}")


class NotJudgedYet(InvalidRecord):
    """What ``key`` is judged by is just being learned from it and all others; it is neither used nor refused now."""

    def __init__(self, key: str) -> None:
        super().__init__(key, "value", "is judged with the next list")


class PeerFileError(ClustermeshError):
    """The peer file ``path`` cannot be used; the last good version of it stays in force."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class DirectoryUnreadable(ClustermeshError):
    """The directory of peers could not be read to the end; that is not an empty directory."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}; the peers known so far stay")


class MembershipError(ClustermeshError):
    """A cluster cannot join, or be joined, like that; the sentence names what is in the way. Nothing was changed."""


class PeerRefused(ClustermeshError):
    """Cluster ``cluster`` is reachable but must not be connected; what it shared before is kept as stale."""

    def __init__(self, cluster: str, reason: str) -> None:
        self.cluster = cluster
        self.reason = reason
        super().__init__(f"cluster {cluster}: {reason}")


class KvError(ClustermeshError):
    """``operation`` on ``key`` failed; ``reason`` is etcd's own text or ours."""

    def __init__(self, operation: str, key: str, reason: str) -> None:
        self.operation = operation
        self.key = key
        self.reason = reason
        super().__init__(f"etcd {operation} {key}: {reason}" if key else f"etcd {operation}: {reason}")


class KvUnavailable(KvError):
    """No endpoint answered within the deadline. A write may have happened all the same."""


class KvRefused(KvError):
    """etcd refused: permission, invalid argument, precondition. Nothing was changed."""


class LeaseLost(KvError):
    """The lease does not exist any more, or was not renewed for so long that it must be taken as gone."""


class Compacted(KvError):
    """Events between the last one seen and now are not to be had; only a new list closes the gap."""


class StoreReplaced(KvError):
    """What answers now is not the store read before: another etcd cluster id, or an older revision.

    An emptied etcd looks like this. Nothing may be concluded from what it does not hold.
    """

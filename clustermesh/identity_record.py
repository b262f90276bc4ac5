"""An identity as its cluster shares it: a number, and the labels that all workloads with it have.

Source: the public format of Cilium's identity allocator (`pkg/kvstore/allocator`, `pkg/identity/key`).
"""

from __future__ import annotations

from dataclasses import dataclass

from clustermesh.address_record import identity_range
from clustermesh.errors import InvalidRecord
from clustermesh.identity_labels import CLUSTER

MAX_LABELS_BYTES = 1 << 16
"""All labels of a pod and of its namespace are a tenth of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """``labels``: each ``source:key=value`` and ended by a semicolon, sorted by key."""

    number: int
    labels: str


def decode_identity(
    key: str, value: bytes, *, name: str, cluster: str, cluster_id: int, max_connected_clusters: int
) -> Identity:
    """The identity under ``key``, whose last part is ``name``.

    Raises:
        InvalidRecord: not a number, or not one of the cluster's; its labels are none, or of another cluster.
    """
    first, last = identity_range(cluster_id, max_connected_clusters)
    # So long, and no sign, space or leading zero: one number has one key.
    if not (name.isascii() and name.isdecimal() and len(name) <= 8 and str(int(name)) == name):
        raise InvalidRecord(key, "id", f"{name[:40]!r} is not a number")
    if not first <= int(name) <= last:
        raise InvalidRecord(key, "id", f"is {name}, not within {first}..{last} of its cluster")
    if len(value) > MAX_LABELS_BYTES:
        raise InvalidRecord(
            key, "labels", f"{len(value)} bytes, more than the {MAX_LABELS_BYTES} that are allowed"
        )
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRecord(key, "labels", "are no UTF-8") from error
    labels = text.split(";")
    if labels.pop() or not all("=" in label for label in labels):
        raise InvalidRecord(key, "labels", f"{text[:80]!r} are not labels that end with semicolons")
    says = [label.partition("=")[2] for label in labels if _key(label) == CLUSTER]
    if says != [cluster]:
        found = says[0] if says else "nothing"
        raise InvalidRecord(key, "labels", f"{CLUSTER} is {found[:80]!r}, expected {cluster!r}")
    return Identity(int(name), text)


def _key(label: str) -> str:
    """The key of ``source:key=value``; the source may be absent."""
    source, colon, rest = label.partition("=")[0].partition(":")
    return rest if colon else source

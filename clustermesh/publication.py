"""What a publisher wants in etcd against what etcd holds: pure, per key.

In batches that one transaction can take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

BATCH_KEYS = 100
"""etcd allows 128 operations a transaction."""
BATCH_BYTES = 1_000_000
"""etcd allows 1.5 MiB a request."""


@dataclass(frozen=True, slots=True)
class Held:
    """What etcd holds under a key. ``value`` None: too large to have been read."""

    value: bytes | None
    lease: int


def to_put(
    desired: Mapping[str, bytes], held: Mapping[str, Held], keys: Iterable[str], own_leases: Collection[int]
) -> list[str]:
    """Those of ``keys`` that must be written: absent, different, or living by a lease that is not ours."""
    return [
        key
        for key in keys
        if key in desired
        and (key not in held or held[key].value != desired[key] or held[key].lease not in own_leases)
    ]


def to_delete(
    desired: Mapping[str, bytes],
    held: Mapping[str, Held],
    keys: Iterable[str],
    *,
    complete: bool,
    named: Collection[str],
) -> list[str]:
    """Those of ``keys`` that etcd holds in vain.

    Until the desired set is ``complete`` only keys whose deletion was asked for by name (``named``): that a
    key is not desired yet proves nothing.
    """
    return [key for key in keys if key in held and key not in desired and (complete or key in named)]


def batches(keys: Iterable[str], desired: Mapping[str, bytes]) -> Iterator[list[str]]:
    """``keys`` in order, cut so that each batch fits one transaction; a single large value is one of its own."""
    batch: list[str] = []
    size = 0
    for key in keys:
        bytes_ = len(key) + len(desired.get(key, b""))
        if batch and (len(batch) == BATCH_KEYS or size + bytes_ > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(key)
        size += bytes_
    if batch:
        yield batch

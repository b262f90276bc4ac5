"""Notices that etcd was out of reach and is back.

One that was restored from an older snapshot under its own id still has our leases, so nothing but its records says that time
went back: whoever keeps records there reads or writes them anew.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import NoReturn

from clustermesh import keys
from clustermesh.errors import Compacted, KvError
from clustermesh.kv import Kv
from clustermesh.watch import Batch, Interrupted


class EtcdReturned(KvError):
    """Etcd was out of reach and is back."""

    def __init__(self) -> None:
        super().__init__("watch", keys.HEARTBEAT, "etcd was out of reach and is back")


async def until_returned(kv: Kv, after: int) -> NoReturn:
    """Watches, from revision ``after`` on, a key that is written now and then, only to notice when etcd goes and comes.

    Raises:
        EtcdReturned: it did. KvError as of Kv.watch.
    """
    is_gone = False
    try:
        async with aclosing(kv.watch(keys.HEARTBEAT, after=after, prefix=False)) as watch:
            async for step in watch:
                if is_gone and isinstance(step, Batch):
                    raise EtcdReturned
                is_gone = isinstance(step, Interrupted)
    except Compacted as error:
        raise EtcdReturned from error
    raise EtcdReturned

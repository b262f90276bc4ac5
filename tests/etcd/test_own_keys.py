"""What a node says of itself is in etcd again soon after an older snapshot of it was restored."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from clustermesh.kv import Kv
from clustermesh.own_keys import OwnKeys
from tests.etcd.process import EtcdProcess
from tests.patience import patience

pytestmark = pytest.mark.needs("etcd")

KEY = "cilium/state/nodes/v1/cm-1/n1"


async def test_an_etcd_that_is_restored_from_an_older_snapshot_gets_what_it_lacks(
    etcd: EtcdProcess, kv: Kv, tmp_path: Path
) -> None:
    own = OwnKeys(kv)
    running = asyncio.create_task(own.run())
    try:
        own.update({KEY: b"older"})
        await own.settled()
        etcd.ctl("snapshot", "save", str(tmp_path / "snapshot"))
        own.update({KEY: b"newer"})
        await own.settled()
        etcd.kill()
        etcd.wipe()
        etcd.restore(tmp_path / "snapshot", as_it_was=True)
        await etcd.start()
        # An audit would put it, too, but minutes later.
        async with etcd.kv() as fresh, asyncio.timeout(patience(30)):
            while (found := await fresh.get(KEY)) is None or found.value != b"newer":
                await asyncio.sleep(0.1)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

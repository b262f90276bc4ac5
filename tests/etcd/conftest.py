"""Real etcd servers for the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from clustermesh.kv import Kv
from tests.etcd.process import EtcdProcess


@pytest.fixture
def make_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdProcess]]:
    """Makes members that end with the test, however it ends."""
    made: list[EtcdProcess] = []
    # etcd waits for the disk at every write; in memory a busy disk cannot decide whether a test passes.
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="mt-etcd-", dir=memory if memory.is_dir() else tmp_path))

    def make(name: str = "m0", **options: object) -> EtcdProcess:
        process = EtcdProcess(root / name, name, **options)  # type: ignore[arg-type] # passed through
        made.append(process)
        return process

    try:
        yield make
    finally:
        for process in made:
            process.kill()
        shutil.rmtree(root)


@pytest.fixture
async def etcd(make_etcd: Callable[..., EtcdProcess]) -> EtcdProcess:
    """One running member."""
    process = make_etcd()
    await process.start()
    return process


@pytest.fixture
async def kv(etcd: EtcdProcess) -> AsyncIterator[Kv]:
    """An adapter to the running member."""
    async with etcd.kv() as adapter:
        yield adapter


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory of peers; what else a test keeps lies beside it."""
    (tmp_path / "peers").mkdir()
    return tmp_path / "peers"


@pytest.fixture
async def local(make_etcd: Callable[..., EtcdProcess]) -> EtcdProcess:
    """Another running member, of an etcd of its own: what a mirror copies into."""
    process = make_etcd("local")
    await process.start()
    return process

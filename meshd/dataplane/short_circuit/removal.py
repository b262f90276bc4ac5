"""Takes the short circuit out of the kernel, without an agent: every connection goes back to TCP first."""

from __future__ import annotations

import asyncio
import time

import structlog

from meshd.config import Config
from meshd.dataplane.opening import link_pins, map_pins
from meshd.dataplane.short_circuit import rows
from meshd.dataplane.short_circuit.leaving import Leaver
from meshd.dataplane.short_circuit.splices import take_off_all
from meshd.dataplane.short_circuit.switchboard import Switchboard
from meshd.errors import BytesWouldBeLost, KernelError
from meshd.kernel.maps import Map
from meshd.kernel.object import BpfObject
from meshd.kernel.rcu import wait_for_programs

log = structlog.get_logger(__name__)

# For readers to read what waits for them.
PATIENCE_S = 5.0
_PAUSE_S = 0.02
RETRY_S = 10.0


class LeftOver:
    """What an earlier agent left where this one has none: a configuration that disables it acts on live connections, too."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self) -> None:
        """Until nothing is there any more."""
        while is_there(self._config):
            try:
                await asyncio.to_thread(self._remove)
                log.info("short circuit is not there any more, connections are on TCP")
            except (KernelError, BytesWouldBeLost) as error:
                log.warning("short circuit cannot be taken away, tried again", reason=str(error))
                await asyncio.sleep(RETRY_S)

    def _remove(self) -> None:
        empty(self._config)
        names = {*rows.MAPS, *rows.KERNEL_MAPS}
        for pin in list(map_pins(self._config).iterdir()):
            # A pin's name is its map's, and a hash of the layout behind it (kernel/pins.py).
            if pin.name.rpartition("_")[0] in names:
                pin.unlink()


def is_there(config: Config) -> bool:
    """Whether an agent has left sockets' map there."""
    directory = map_pins(config)
    return directory.is_dir() and any(directory.glob(f"{rows.SOCKETS}_*"))


def empty(config: Config, *, drop: bool = False) -> None:
    """No socket is in the map any more; new messages go on TCP at once. It blocks for up to 5 s.

    Raises:
        BytesWouldBeLost: bytes wait for readers that do not read; not with ``drop``, which loses them. All others have left.
        KernelError, VerifierError: the kernel refused something.
    """
    take_off_all(link_pins(config))
    source = BpfObject.open(config.bpf_object) if config.bpf_object else BpfObject.open()
    with source as bpf:
        bpf.leave_out_maps(set(bpf.maps()) - _used(bpf))
        bpf.load_only(rows.PROGRAMS)
        bpf.set_globals({"short_circuit": 1})
        loaded = bpf.load(pins=map_pins(config))
        made = rows.layouts(bpf.btf)
    try:
        board = Switchboard(made, loaded.maps, loaded.programs)
        board.connect()
        board.turn(on=False)
        leaver = Leaver(made, loaded.maps, loaded.programs, wait_for_programs)
        number = next(at for at, name in made.causes.items() if name == "switched_off")
        left = asyncio.run(_emptied(leaver, loaded.maps[rows.CONNECTIONS], number))
    finally:
        loaded.close()
    if left and not drop:
        raise BytesWouldBeLost(left)


def _used(bpf: BpfObject) -> set[str]:
    """What those programs look up."""
    return {*rows.MAPS, *rows.KERNEL_MAPS, "pods", "destinations", "flows"} & set(bpf.maps())


async def _emptied(leaver: Leaver, connections: Map, number: int) -> int:
    """How many are left."""
    await leaver.adopt()
    deadline = time.monotonic() + PATIENCE_S
    while keys := list(connections.keys()):
        if time.monotonic() > deadline:
            break
        await leaver.leave(keys, number)
        await leaver.step()
        await asyncio.sleep(_PAUSE_S)
    return len(keys)

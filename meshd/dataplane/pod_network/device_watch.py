"""Looks at the node's devices, now and whenever the kernel tells of a change, for all parts that go by them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import structlog

from meshd.config import Config
from meshd.dataplane.devices import TUNNEL_DEVICE, Devices, Found
from meshd.dataplane.pod_network import uplinks
from meshd.dataplane.pod_network.plans import SETTINGS, UPLINKS
from meshd.errors import KernelError
from meshd.kernel.route_socket import RouteSocket
from meshd.model import parse_address
from meshd.state import Mesh

log = structlog.get_logger(__name__)

# Changes of devices come in bursts.
GATHER_S = 0.1


class DeviceWatch:
    """`run` in the node's namespace, where no part that attaches programs looks by itself."""

    def __init__(self, config: Config, mesh: Mesh, devices: Devices) -> None:
        self._config = config
        self._mesh = mesh
        self._devices = devices

    async def run(self) -> None:
        """Until cancelled."""
        changed = asyncio.Event()
        watch, route = uplinks.Watch(changed), RouteSocket()
        try:
            while True:
                changed.clear()
                try:
                    await look(route, self._config, self._mesh, self._devices)
                except KernelError as error:
                    log.warning("devices cannot be looked at, tried again", reason=str(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.audit_interval_s):
                        await changed.wait()
                await asyncio.sleep(GATHER_S)
        finally:
            watch.close()
            route.close()


async def look(route: RouteSocket, config: Config, mesh: Mesh, devices: Devices) -> None:
    """What is found is in ``devices``, and what depends on it is planned again.

    Raises:
        KernelError: the kernel cannot be asked.
    """
    looked = await asyncio.to_thread(uplinks.look, route)
    named = [parse_address(text) for text in config.node_addresses]
    found = uplinks.found(looked, config.pod_network.uplinks, named, TUNNEL_DEVICE)
    found = remembering(found, devices.now)
    if found != devices.now:
        devices.now = found
        for key in (UPLINKS, SETTINGS):
            mesh.touch(key)
        log.info("uplinks", devices=[each.name for each in found.uplinks])


def remembering(found: Found, before: Found) -> Found:
    """``found`` with the node's own addresses of ``before`` where it has none.

    A link that is down for a moment, or an address that is just renewed, takes the default route away. Who then said that
    this node has no address would be cut off by all others.
    """
    return replace(found, node_v4=found.node_v4 or before.node_v4, node_v6=found.node_v6 or before.node_v6)

"""The CNI plugin's parts, put together: journal and kernel below, the runtime's socket above."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshd.agent.pod_rows import PodRows
from meshd.config import Config
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.pod_network import PodNetwork
from meshd.dataplane.pod_network.destination_plans import OWN
from meshd.dataplane.pod_network.node_network import NodeNetwork
from meshd.dataplane.pod_network.sysctls import remembered_sysctls
from meshd.dataplane.pod_network.traffic_control import TrafficControl
from meshd.model import Address
from meshd.model.address_pool import address_ranges
from meshd.servers.cni.plugin import Plugin
from meshd.servers.cni.server import CniServer
from meshd.servers.cni.tracing import untraced
from meshd.state import Mesh
from meshd.state.attachments import Attachments

if TYPE_CHECKING:
    from meshd.telemetry.tracing import Tracing


class CniPlugin:
    """Pods of this node. Interfaces and their routes outlive the agent."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        programs: TrafficControl | None,
        dataplane: Dataplane,
        ways: NodeNetwork | None,
    ) -> None:
        """``programs`` None: none carry pods' packets. ``ways`` None: there are no other nodes.

        Raises ConfigError: the pod CIDRs make no sense.
        """
        options = config.cni
        ranges = address_ranges(options.pod_cidrs, options.reserved, options.excluded)
        journal = config.state_dir / "attachments.journal"
        self._attachments = Attachments(journal, ranges, options.cool_down_s)
        self._network = PodNetwork(
            {each.version for each in ranges},
            remembered_sysctls(config),
            programs,
            config.pod_network.port_range if config.pod_network.masquerade else None,
            ways.headroom if ways is not None else lambda: 0,
        )
        self._tracing = _tracing(config)
        span = self._tracing.span if self._tracing else untraced
        self._rows = PodRows(
            dataplane,
            lambda address: any(each.may_be_asked_for(address) for each in ranges),
            self._attachments.holds,
        )
        plugin = Plugin(
            mesh, self._attachments, self._network, self._rows, has_ranges=bool(ranges), span=span
        )
        self._plugin = plugin
        self._server = CniServer(config.cni_socket, plugin)
        self._mesh = mesh
        self._devices = dataplane.devices
        self._is_carried = programs is not None
        self.knows = self._attachments.knows
        # Set once runtimes are answered.
        self.listening = self._server.listening

    def avoid(self, addresses: frozenset[Address]) -> None:
        """Pods that another plugin connected have ``addresses``, and no others: they are given to nobody, and the host's
        stack carries what goes there."""
        self._attachments.avoid(addresses)
        if addresses != self._devices.strangers:
            self._devices.strangers = addresses
            if self._is_carried:
                self._mesh.touch(OWN)

    async def why_no_new_pods(self) -> str:
        """What a runtime that asks for STATUS is told, as a sentence; empty: new pods can have a network."""
        return await self._plugin.why_not()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            ConfigError, JournalError, KernelError: this node cannot serve a runtime.
        """
        try:
            await self._network.prepare()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._network.run())
                tasks.create_task(self._rows.run())
                tasks.create_task(self._server.run())
                if self._tracing is not None:
                    tasks.create_task(self._tracing.run())
        finally:
            await self._attachments.close()


def _tracing(config: Config) -> Tracing | None:
    if not config.tracing.otlp:
        return None
    from meshd.telemetry.tracing import Tracing  # noqa: PLC0415 - the SDK is a heavy import

    return Tracing(config.tracing.otlp, config.node_name, config.cluster_name)

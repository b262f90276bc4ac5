"""A failover on the real kernel: when it was over for new connections, and how many sockets were left open."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.failover_history import FailoverHistory
from meshd.dataplane.failover_record import FailoverRecord, load
from meshd.dataplane.opening import open_object
from meshd.model import Node as ModelNode
from meshd.model import Outage
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service, serving

HERE, THERE, _ = BACKENDS4


async def test_sockets_left_open_to_a_silent_node_are_counted_and_written_down(
    node: Node, tmp_path: Path
) -> None:
    mesh, source = node.mesh, "cluster:cm-2"
    history = FailoverHistory(mesh, "cm-1")
    dataplane = Dataplane(node.config, mesh, open_object(node.config, ()), history.written)
    dataplane.attach(node.cgroup)
    record = FailoverRecord(
        mesh, history, tmp_path / "state", dataplane.layouts, dataplane.opened.loaded.maps["connections"]
    )
    running = [asyncio.create_task(part.run()) for part in (dataplane, record)]
    try:
        with serving(node, HERE, THERE):
            there = ModelNode("cm-2", "n9", source, pod_cidrs=(f"{THERE}/32",))
            mesh.replace(source, [there, backends(backend(THERE), source=source, cluster="cm-2")])
            mesh.replace("manifests", [service(is_global=True), backends(backend(HERE))])
            await node.settle()
            opened = [node.connect(VIP4, 80) for _ in range(24)]
            taken = Counter(each.recv(64).decode() for each in opened)
            assert taken[THERE] > 0

            mesh.replace("probes", [Outage("cm-2", "n9", 1.0, "it does not answer probes", silent_s=0.6)])
            async with asyncio.timeout(10):
                while not (found := load(tmp_path / "state")) or found[0].connections is None:
                    await asyncio.sleep(0.01)
            (one,) = found
            assert one.connections == taken[THERE]
            assert one.switch_s is not None
            assert one.switch_s > 0
            assert {node.ask(VIP4) for _ in range(30)} == {HERE}
            assert one.moves[0].after == {"cm-1": 1.0}
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        dataplane.close()

"""Which link of the node belongs to a pod that another plugin attached is not the pod's to say."""

from __future__ import annotations

import os
from typing import Any

from meshd.dataplane.pod_network import known_links
from meshd.kernel.netlink import in_netns
from meshd.kernel.netns import Netns
from meshd.kernel.route_socket import RouteSocket
from meshd.model import parse_address
from meshd.model.attachment import Attachment
from tests.netns.pod_network.host import Host, Pod


def test_a_pod_that_numbers_its_devices_like_those_of_another_gets_none_of_its_links(
    node: Host, pods: tuple[Pod, Pod]
) -> None:
    victim = pods[0]
    with Netns.create("thief") as thief, node.netns.run(RouteSocket) as route:
        inside = in_netns(victim.netns, "eth0", lambda at: at.link_lookup(ifname="eth0")[0])
        outside = victim.link.ifindex

        def imitate(at: Any) -> None:
            """Any: pyroute2 has no types."""
            at.link("add", ifname="x", kind="veth", index=outside, peer={"ifname": "eth0"})

        in_netns(thief, "eth0", imitate)
        assert in_netns(thief, "eth0", lambda at: at.link_lookup(ifname="eth0")[0]) == inside
        at = f"/proc/{os.getpid()}/fd/{thief.fd}"
        told = Attachment(
            "net", "thief", "eth0", at, "default", "thief", (parse_address("10.9.9.9"),), chained=True
        )
        assert node.netns.run(lambda: known_links.observed(route, told)) is None

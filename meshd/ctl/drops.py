"""``meshctl metrics drops``: why packets of pods were dropped, and what one can do about it."""

from __future__ import annotations

import argparse

from meshd.api.v1 import metrics_pb2
from meshd.api.v1.metrics_pb2_grpc import MetricsServiceStub
from meshd.ctl.connection import connected
from meshd.ctl.output import Column, as_dict, show, show_object, size

# Of every reason in bpf/maps/drops.h, as the agent calls it.
MEANINGS = {
    "malformed": "headers that do not fit the packet or each other",
    "source_not_the_pods": "a pod sent from an address that is not its own",
    "source_local_pod": "came from an uplink under the address of this node or a pod of it",
    "source_not_native": "came from an uplink under an address that is only to come through the tunnel",
    "tunnel_unknown_node": "came through the tunnel from an address that is no node's",
    "tunnel_source": "came through the tunnel under an address that does not belong to the node that sent it",
    "tunnel_identity": "came through the tunnel with an identity that the node that sent it may not use",
    "no_such_pod": "to an address of this node's pod CIDRs that no pod has",
    "no_backend": "to a service that has no backend: see `meshctl service list`",
    "flow_table_full": "a new flow, but the table of flows is full: raise maps.flows",
    "flow_quota": "a new flow of a pod that has as many as it may: raise podNetwork.flowQuotaPercent",
    "no_masquerade_port": "leaves the cluster, but every port for its destination is taken: widen masqueradePorts",
    "no_masquerade_address": "leaves the cluster through an uplink that has no address of its family",
    "fragment_unknown": "a later fragment of a packet whose first one was not seen",
    "no_flow": "needs a translation, and nobody knows which: its flow was forgotten, or never began",
}

DROPS: tuple[Column[metrics_pb2.Drop], ...] = (
    Column("REASON", lambda one: one.reason),
    Column("DIRECTION", lambda one: one.direction.replace("_", " ")),
    Column("PACKETS", lambda one: str(one.packets)),
    Column("BYTES", lambda one: size(one.bytes)),
    Column("MEANING", lambda one: MEANINGS.get(one.reason, "-")),
)


def run(options: argparse.Namespace) -> int:
    """1 if the agent cannot be asked."""
    with connected(options) as channel:
        request = metrics_pb2.ListDropsRequest()
        answer = MetricsServiceStub(channel).ListDrops(request, timeout=options.timeout)
    if options.output in {"json", "yaml"}:
        show_object(as_dict(answer), options.output)
    elif answer.not_counted:
        print("no programs carry pods' packets on this node, so nothing is counted")
    elif not answer.drops:
        print("no packet was dropped")
    else:
        show("drops", answer.drops, DROPS, options.output)
    return 0

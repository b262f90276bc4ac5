"""The features of this dataplane, in the order in which their rows are written."""

from __future__ import annotations

from collections.abc import Mapping

from meshd.config import Config
from meshd.dataplane import socket_lb, socket_lb_sweep
from meshd.dataplane.attach import HOOKS
from meshd.dataplane.delta import Delta
from meshd.dataplane.feature import Context, Feature, Rule
from meshd.dataplane.pod_network import plans, rows
from meshd.dataplane.pod_network.destination_plans import CONTESTED
from meshd.dataplane.pod_network.places import EXPIRE, POD, TUNNEL, UPLINK
from meshd.dataplane.short_circuit import plans as short_circuit_plans
from meshd.dataplane.short_circuit import rows as short_circuit_rows
from meshd.dataplane.staleness import Staleness
from meshd.model import OnStale, ServiceName
from meshd.state import Mesh, PlanKey


def _socket_lb_sizes(config: Config) -> Mapping[str, int]:
    sizes = config.maps
    return {
        "frontends": sizes.frontends,
        "slots": sizes.slots,
        "members": sizes.members,
        "affinities": sizes.affinity,
        "connections": sizes.connected,
        "datagram_backends": sizes.datagrams,
        "datagram_frontends": sizes.datagrams,
        "workloads": sizes.workloads,
    }


def service_planner(context: Context) -> socket_lb.Planner:
    """What plans the services of this node."""
    config = context.config
    return socket_lb.Planner(
        context.layouts,
        config.node_name,
        context.held,
        config.zone,
        config.cluster_name,
        returns=context.returns,
        staleness=Staleness(OnStale(config.clustermesh.on_stale)),
        drills=context.drills,
        region=config.region,
    )


def _socket_lb_rules(context: Context) -> Mapping[str, Rule]:
    planner = service_planner(context)
    return {
        "service": lambda mesh, name: planner.service(mesh, ServiceName(*name.split("/", 1))),
        "source": planner.source,
        "workload": lambda mesh, name: planner.workload(mesh, *context.workload(mesh, name)),
    }


def _socket_lb_unwanted(
    context: Context, mesh: Mesh, delta: Delta, failed: set[PlanKey]
) -> dict[str, set[bytes]]:
    return socket_lb_sweep.unwanted(mesh, delta, context.held, context.layouts, failed)


SOCKET_LB = Feature(
    word="socket_lb",
    maps=socket_lb.MAPS,
    kernel_maps=(
        "affinities",
        "attempts",
        "beat",
        "connections",
        "datagram_backends",
        "datagram_frontends",
        "drill_choices",
        "socket_lb_events",
    ),
    programs=tuple(HOOKS),
    is_wanted=lambda _: True,
    sizes=_socket_lb_sizes,
    knobs=lambda _: {},
    rules=_socket_lb_rules,
    unwanted=_socket_lb_unwanted,
    needs={
        "socket_lb_getpeername4": ("cgroup_getpeername",),
        "socket_lb_getpeername6": ("cgroup_getpeername",),
        "socket_lb_answered": ("cgroup_sock_ops",),
        "socket_lb_release": ("cgroup_sock_release",),
        "socket_lb_sendmsg4": ("cgroup_sendmsg",),
        "socket_lb_sendmsg6": ("cgroup_sendmsg",),
        "socket_lb_recvmsg4": ("cgroup_sendmsg",),
        "socket_lb_recvmsg6": ("cgroup_sendmsg",),
    },
    retired=socket_lb.RETIRED,
    contested=socket_lb.CONTESTED,
)


def _pod_network_sizes(config: Config) -> Mapping[str, int]:
    sizes = config.maps
    return {
        "pods": sizes.pods,
        "observed_links": sizes.pods,
        "pod_flows": sizes.pods,
        "pod_flows_counted": sizes.pods,
        "destinations": sizes.destinations,
        "flows": sizes.flows,
        "new_flows": sizes.new_flows,
        "fragments": sizes.fragments,
    }


def _pod_network_knobs(config: Config) -> Mapping[str, int]:
    options, timeouts = config.pod_network, config.pod_network.timeouts
    first, last = options.port_range
    return {
        "masquerade": int(options.masquerade),
        "masquerade_port_first": first,
        "masquerade_port_last": last,
        "tunnel_port": options.tunnel_port,
        "flow_quota": max(config.maps.flows * options.flow_quota_percent // 100, 1),
        "timeout_established_s": timeouts.established_s,
        "timeout_closing_s": timeouts.closing_s,
        "timeout_unanswered_s": timeouts.unanswered_s,
        "timeout_datagram_s": timeouts.datagram_s,
        "timeout_echo_s": timeouts.echo_s,
    }


# Both ways around the host's stack.
_SHORT = ("tc", "redirect_peer", "redirect_neigh")

POD_NETWORK = Feature(
    word="pod_network",
    maps=rows.MAPS,
    kernel_maps=rows.KERNEL_MAPS,
    programs=(*POD.programs, *UPLINK.programs, *TUNNEL.programs, EXPIRE),
    is_wanted=lambda config: config.has_pod_network,
    sizes=_pod_network_sizes,
    knobs=_pod_network_knobs,
    rules=plans.rules,
    unwanted=plans.unwanted,
    contested=CONTESTED,
    generation=rows.WAY_GENERATION,
    beside="beside_another",
    needs=dict.fromkeys((*POD.programs, *UPLINK.programs, *TUNNEL.programs), _SHORT),
)


def _short_circuit_knobs(config: Config) -> Mapping[str, int]:
    options = config.short_circuit
    return {
        "short_circuit_queue_bytes": options.queue_bytes,
        "short_circuit_queue_messages": options.queue_messages,
        "short_circuit_watch_ns": int(options.watch_s * 1e9),
        "short_circuit_after_packets": options.after_packets,
    }


SHORT_CIRCUIT = Feature(
    word="short_circuit",
    maps=short_circuit_rows.MAPS,
    kernel_maps=short_circuit_rows.KERNEL_MAPS,
    programs=short_circuit_rows.PROGRAMS,
    is_wanted=lambda config: config.has_pod_network and config.short_circuit.enabled,
    sizes=lambda config: {
        "short_circuit_workloads": config.maps.pods,
        "short_circuit_watches": config.maps.pods,
        short_circuit_rows.CONNECTIONS: config.maps.short_circuits,
        short_circuit_rows.SOCKETS: config.maps.short_circuits * 2,
    },
    knobs=_short_circuit_knobs,
    rules=short_circuit_plans.rules,
    unwanted=short_circuit_plans.unwanted,
    needs=dict.fromkeys(short_circuit_rows.PROGRAMS, ("sockhash", "sk_msg", "sk_msg_reads_sockets")),
    contested=frozenset(short_circuit_rows.MAPS),
    generation=short_circuit_rows.EPOCH,
    advances=short_circuit_rows.RAISE,
    switch="short_circuit",
)

FEATURES = (SOCKET_LB, POD_NETWORK, SHORT_CIRCUIT)

"""The features of this dataplane, in the order in which their rows are written."""

from __future__ import annotations

from collections.abc import Mapping

from meshd.config import Config
from meshd.dataplane import socket_lb, socket_lb_sweep
from meshd.dataplane.attach import HOOKS
from meshd.dataplane.delta import Delta
from meshd.dataplane.feature import Context, Feature, Rule
from meshd.model import ServiceName
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


def _socket_lb_rules(context: Context) -> Mapping[str, Rule]:
    planner = socket_lb.Planner(context.layouts, context.config.node_name, context.held)
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
        "connections",
        "datagram_backends",
        "datagram_frontends",
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
        "socket_lb_release": ("cgroup_sock_release",),
        "socket_lb_sendmsg4": ("cgroup_sendmsg",),
        "socket_lb_sendmsg6": ("cgroup_sendmsg",),
        "socket_lb_recvmsg4": ("cgroup_sendmsg",),
        "socket_lb_recvmsg6": ("cgroup_sendmsg",),
    },
    retired=socket_lb.RETIRED,
    contested=socket_lb.CONTESTED,
)

FEATURES = (SOCKET_LB,)

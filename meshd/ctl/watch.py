"""``meshctl watch``: one line or document an event; goes on where it was when the agent restarts or cuts us off."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from meshd.api.v1 import backend_pb2, cluster_pb2, node_pb2, service_pb2, watch_pb2
from meshd.api.v1.backend_pb2_grpc import BackendServiceStub
from meshd.api.v1.cluster_pb2_grpc import ClusterServiceStub
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from meshd.ctl import columns
from meshd.ctl.connection import code_of, connected
from meshd.ctl.errors import CtlError
from meshd.ctl.output import Column, as_dict, by_word, show_object

# Between two attempts to reach an agent that is gone.
RETRY_S = 1.0

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be watched: how to begin, and how an event reads."""

    begin: Callable[[grpc.Channel, watch_pb2.ResumePoint], Any]  # Any: the streams of four services
    describe: Callable[[Any, bool], str]  # Any: their events; True: with the columns of -o wide


def run(options: argparse.Namespace) -> int:
    """Until Ctrl-C, or with --once until all that is there has been shown."""
    with connected(options) as channel:
        # An agent that does not answer at the start is an error; one that goes away later is waited for.
        try:
            grpc.channel_ready_future(channel).result(timeout=options.timeout)
        except grpc.FutureTimeoutError:
            raise CtlError(f"cannot reach the agent at {options.server or options.socket}") from None
        try:
            follow(channel, KINDS[options.what], options)
        except KeyboardInterrupt:
            # The way to end it.
            return 0
    return 0


def follow(channel: grpc.Channel, kind: Kind, options: argparse.Namespace) -> None:
    """Show what happens, over restarts of the agent."""
    position = watch_pb2.ResumePoint()
    while True:
        try:
            for message in kind.begin(channel, position):
                show(message, kind, options.output)
                if message.revision:
                    position = watch_pb2.ResumePoint(instance=message.instance, revision=message.revision)
                if options.once and message.synced:
                    return
        except grpc.RpcError as error:
            position = after(error, position)
            time.sleep(RETRY_S)


def after(error: grpc.RpcError, position: watch_pb2.ResumePoint) -> watch_pb2.ResumePoint:
    """Where to go on.

    Raises:
        grpc.RpcError: nowhere, it is not for us.
    """
    code = code_of(error)
    if code is grpc.StatusCode.OUT_OF_RANGE:
        print("meshctl: changes were missed; all that is there follows", file=sys.stderr)
        return watch_pb2.ResumePoint()
    if code not in AGAIN:
        raise error
    print(f"meshctl: the agent is gone ({code.name.lower()}), trying again", file=sys.stderr)
    return position


def show(message: Any, kind: Kind, output: str) -> None:  # Any: as Kind
    """The events of ``message``: each a line, in YAML each a document."""
    for event in message.events:
        name = watch_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
        if output in {"json", "yaml"}:
            show_event(as_dict(event) | {"revision": message.revision}, output)
        else:
            print(f"{name:<6}  {kind.describe(event, output == 'wide')}", flush=True)


def show_event(event: dict[str, Any], output: str) -> None:  # Any: whatever JSON can hold
    """One event for programs, on its way at once: JSON on one line, YAML as a document that its first line begins."""
    if output == "json":
        print(json.dumps(event, ensure_ascii=False), flush=True)
        return
    print("---")
    show_object(event, output)
    sys.stdout.flush()


def cells(message: Any, shown: tuple[Column[Any], ...], wide: bool) -> str:  # Any: a message of that table
    """The cells of a table's row, one behind the other."""
    return "  ".join(by_word(column.cell(message)) for column in shown if wide or not column.wide)


def describe_service(event: service_pb2.ServiceEvent, wide: bool) -> str:
    """One line."""
    if event.type == watch_pb2.EVENT_TYPE_DELETE:
        return f"{event.service.namespace}  {event.service.name}  {event.service.source}"
    return cells(event.service, columns.SERVICES, wide)


def describe_slice(event: backend_pb2.BackendSliceEvent, wide: bool) -> str:
    """One line: all that the slice holds now."""
    backends = ", ".join(describe_backend(one, wide) for one in event.backends) or "none"
    return f"{event.namespace}/{event.service}  {event.source}  {event.slice}: {backends}"


def describe_backend(backend: backend_pb2.Backend, wide: bool) -> str:
    """A backend within the line of its slice."""
    facts = [backend.address, columns.backend_state(backend)]
    if wide:
        facts += [columns.ports(backend), f"weight {backend.weight}", f"node {backend.node or '-'}"]
    return " ".join(facts)


def describe_node(event: node_pb2.NodeEvent, wide: bool) -> str:
    """One line."""
    return cells(event.node, columns.NODES, wide)


def describe_cluster(event: cluster_pb2.ClusterEvent, wide: bool) -> str:
    """One line."""
    if event.type == watch_pb2.EVENT_TYPE_DELETE:
        return event.cluster.name
    return cells(event.cluster, columns.CLUSTERS, wide)


def services(
    channel: grpc.Channel, resume: watch_pb2.ResumePoint
) -> Iterator[service_pb2.WatchServicesResponse]:
    """The stream of services."""
    return ServiceServiceStub(channel).WatchServices(service_pb2.WatchServicesRequest(resume=resume))


def backends(
    channel: grpc.Channel, resume: watch_pb2.ResumePoint
) -> Iterator[backend_pb2.WatchBackendsResponse]:
    """The stream of backends."""
    return BackendServiceStub(channel).WatchBackends(backend_pb2.WatchBackendsRequest(resume=resume))


def nodes(channel: grpc.Channel, resume: watch_pb2.ResumePoint) -> Iterator[node_pb2.WatchNodesResponse]:
    """The stream of nodes."""
    return NodeServiceStub(channel).WatchNodes(node_pb2.WatchNodesRequest(resume=resume))


def clusters(
    channel: grpc.Channel, resume: watch_pb2.ResumePoint
) -> Iterator[cluster_pb2.WatchClustersResponse]:
    """The stream of clusters."""
    return ClusterServiceStub(channel).WatchClusters(cluster_pb2.WatchClustersRequest(resume=resume))


KINDS = {
    "services": Kind(services, describe_service),
    "backends": Kind(backends, describe_slice),
    "nodes": Kind(nodes, describe_node),
    "clusters": Kind(clusters, describe_cluster),
}

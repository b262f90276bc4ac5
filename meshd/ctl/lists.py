"""Everything that is listed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from meshd.api.v1 import backend_pb2, cluster_pb2, map_pb2, node_pb2, service_pb2
from meshd.api.v1.backend_pb2_grpc import BackendServiceStub
from meshd.api.v1.cluster_pb2_grpc import ClusterServiceStub
from meshd.api.v1.map_pb2_grpc import MapServiceStub
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from meshd.ctl import columns
from meshd.ctl.connection import connected
from meshd.ctl.output import show

Page = Callable[[str], Any]  # Any: the answers have nothing in common but next_page_token


def services(options: argparse.Namespace) -> int:
    """``service list``"""
    with connected(options) as channel:
        found = all_services(channel, options.timeout, options.namespace, options.source)
    show("services", found, columns.SERVICES, options.output)
    return 0


def backends(options: argparse.Namespace) -> int:
    """``backend list``"""
    namespace, _, service = options.service.rpartition("/")
    if service:
        namespace = namespace or options.namespace or "default"
    with connected(options) as channel:
        found = all_backends(
            channel, options.timeout, namespace or options.namespace, service, options.source
        )
    show("backends", found, columns.BACKENDS, options.output)
    return 0


def nodes(options: argparse.Namespace) -> int:
    """``node list``"""
    with connected(options) as channel:
        found = all_nodes(channel, options.timeout)
    show("nodes", found, columns.NODES, options.output)
    return 0


def clusters(options: argparse.Namespace) -> int:
    """``cluster list``"""
    with connected(options) as channel:
        found = all_clusters(channel, options.timeout)
    show("clusters", found, columns.CLUSTERS, options.output)
    return 0


def maps(options: argparse.Namespace) -> int:
    """``map list``"""
    with connected(options) as channel:
        answer = MapServiceStub(channel).ListMaps(map_pb2.ListMapsRequest(), timeout=options.timeout)
    show("maps", answer.maps, columns.MAPS, options.output)
    return 0


def all_services(
    channel: grpc.Channel, timeout_s: float, namespace: str = "", source: str = ""
) -> list[service_pb2.Service]:
    """Every service, from all pages."""
    stub = ServiceServiceStub(channel)

    def page(token: str) -> service_pb2.ListServicesResponse:
        request = service_pb2.ListServicesRequest(namespace=namespace, source=source, page_token=token)
        return stub.ListServices(request, timeout=timeout_s)

    return [one for answer in pages(page) for one in answer.services]


def all_backends(
    channel: grpc.Channel, timeout_s: float, namespace: str = "", service: str = "", source: str = ""
) -> list[backend_pb2.Backend]:
    """Every backend, from all pages."""
    stub = BackendServiceStub(channel)

    def page(token: str) -> backend_pb2.ListBackendsResponse:
        request = backend_pb2.ListBackendsRequest(
            namespace=namespace, service=service, source=source, page_token=token
        )
        return stub.ListBackends(request, timeout=timeout_s)

    return [one for answer in pages(page) for one in answer.backends]


def all_nodes(channel: grpc.Channel, timeout_s: float) -> list[node_pb2.Node]:
    """Every node, from all pages."""
    stub = NodeServiceStub(channel)

    def page(token: str) -> node_pb2.ListNodesResponse:
        return stub.ListNodes(node_pb2.ListNodesRequest(page_token=token), timeout=timeout_s)

    return [one for answer in pages(page) for one in answer.nodes]


def all_clusters(channel: grpc.Channel, timeout_s: float) -> list[cluster_pb2.Cluster]:
    """Every cluster, from all pages."""
    stub = ClusterServiceStub(channel)

    def page(token: str) -> cluster_pb2.ListClustersResponse:
        return stub.ListClusters(cluster_pb2.ListClustersRequest(page_token=token), timeout=timeout_s)

    return [one for answer in pages(page) for one in answer.clusters]


def pages(page: Page) -> Iterator[Any]:  # Any: as Page
    """The answers of ``page`` from the first to the last."""
    token = ""
    while True:
        answer = page(token)
        yield answer
        token = answer.next_page_token
        if not token:
            return

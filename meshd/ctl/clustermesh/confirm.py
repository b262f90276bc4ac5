"""``meshctl clustermesh confirm``."""

from __future__ import annotations

import argparse

from meshd.api.v1 import cluster_pb2
from meshd.api.v1.cluster_pb2_grpc import ClusterServiceStub
from meshd.ctl.connection import connected


def run(options: argparse.Namespace) -> int:
    """Says what was let go; nothing is no failure."""
    with connected(options) as channel:
        request = cluster_pb2.ConfirmRemovalsRequest(name=options.cluster)
        answer = ClusterServiceStub(channel).ConfirmRemovals(request, timeout=options.timeout)
    for one in answer.removals:
        since = one.since.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
        print(
            f"{one.namespace}/{one.service}: {one.backends} backends, {'held' if one.held else 'stale'} since {since}"
        )
    print(f"{len(answer.removals)} services of {options.cluster} let go on this node")
    return 0

"""``meshctl node delete``."""

from __future__ import annotations

import argparse

from meshd.api.v1 import node_pb2
from meshd.api.v1.node_pb2_grpc import NodeServiceStub
from meshd.ctl.changes import make_all
from meshd.ctl.connection import connected


def delete(options: argparse.Namespace) -> int:
    """``node delete``"""
    with connected(options) as channel:
        stub = NodeServiceStub(channel)

        def make(text: str) -> str:
            cluster, _, name = text.rpartition("/")
            request = node_pb2.DeleteNodeRequest(cluster=cluster, name=name, wait=not options.no_wait)
            answer = stub.DeleteNode(request, timeout=options.timeout)
            return f"node {text} deleted at revision {answer.revision}"

        return make_all(options.names, make, options)

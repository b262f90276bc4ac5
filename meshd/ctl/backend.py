"""``meshctl backend apply|delete``."""

from __future__ import annotations

import argparse

from meshd.api.v1 import backend_pb2
from meshd.api.v1.backend_pb2_grpc import BackendServiceStub
from meshd.ctl.changes import make_all
from meshd.ctl.connection import connected
from meshd.ctl.documents import read
from meshd.ctl.errors import UsageError
from meshd.ctl.names import port_of, service_name


def apply(options: argparse.Namespace) -> int:
    """``backend apply``"""
    if bool(options.file) == bool(options.name and options.address):
        raise UsageError("backend apply needs either -f FILE or a service with --address and --port")
    items = read(options.file, backend_pb2.Backend) if options.file else [from_flags(options)]
    with connected(options) as channel:
        stub = BackendServiceStub(channel)

        def make(backend: backend_pb2.Backend) -> str:
            request = backend_pb2.ApplyBackendRequest(
                backend=backend, wait=not options.no_wait, validate_only=options.dry_run
            )
            answer = stub.ApplyBackend(request, timeout=options.timeout)
            name = f"backend {backend.address} of {backend.namespace}/{backend.service}"
            return f"{name} is right" if options.dry_run else f"{name} applied at revision {answer.revision}"

        return make_all(items, make, options)


def delete(options: argparse.Namespace) -> int:
    """``backend delete``"""
    namespace, service = service_name(options.name, options.namespace)
    with connected(options) as channel:
        stub = BackendServiceStub(channel)

        def make(address: str) -> str:
            request = backend_pb2.DeleteBackendRequest(
                namespace=namespace, service=service, address=address, wait=not options.no_wait
            )
            answer = stub.DeleteBackend(request, timeout=options.timeout)
            what = f"backend {address} of {namespace}/{service}"
            return (
                f"{what} deleted at revision {answer.revision}" if answer.existed else f"{what} was not there"
            )

        return make_all(options.addresses, make, options)


def from_flags(options: argparse.Namespace) -> backend_pb2.Backend:
    """The backend that the flags describe.

    Raises:
        UsageError: a port is not what it must be.
    """
    namespace, service = service_name(options.name, options.namespace)
    ports = [port_of(text) for text in options.port]
    return backend_pb2.Backend(
        namespace=namespace,
        service=service,
        address=options.address,
        ports=[
            backend_pb2.BackendPort(port_name=name, port=port, protocol=protocol)
            for name, port, protocol in ports
        ],
        ready=False if options.not_ready else None,
        terminating=options.terminating,
        node=options.node,
        zone=options.zone,
        weight=options.weight,
        cluster=options.cluster,
    )

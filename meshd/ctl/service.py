"""``meshctl service get|apply|delete``."""

from __future__ import annotations

import argparse

from meshd.api.v1 import service_pb2
from meshd.api.v1.service_pb2_grpc import ServiceServiceStub
from meshd.ctl import columns
from meshd.ctl.changes import make_all
from meshd.ctl.connection import connected
from meshd.ctl.documents import read
from meshd.ctl.errors import UsageError
from meshd.ctl.names import frontend, service_name
from meshd.ctl.output import as_dict, show, show_object


def get(options: argparse.Namespace) -> int:
    """``service get``"""
    namespace, name = service_name(options.name, options.namespace)
    request = service_pb2.GetServiceRequest(namespace=namespace, name=name, source=options.source)
    with connected(options) as channel:
        found = ServiceServiceStub(channel).GetService(request, timeout=options.timeout).service
    if options.output in {"json", "yaml"}:
        show_object(as_dict(found), options.output)
    else:
        show("services", [found], columns.SERVICES, options.output)
    return 0


def apply(options: argparse.Namespace) -> int:
    """``service apply``"""
    if bool(options.file) == bool(options.name):
        raise UsageError("service apply needs either -f FILE or a name with --frontend")
    items = read(options.file, service_pb2.Service) if options.file else [from_flags(options)]
    with connected(options) as channel:
        stub = ServiceServiceStub(channel)

        def make(service: service_pb2.Service) -> str:
            request = service_pb2.ApplyServiceRequest(
                service=service, wait=not options.no_wait, validate_only=options.dry_run
            )
            answer = stub.ApplyService(request, timeout=options.timeout)
            name = f"service {service.namespace}/{service.name}"
            return f"{name} is right" if options.dry_run else f"{name} applied at revision {answer.revision}"

        return make_all(items, make, options)


def delete(options: argparse.Namespace) -> int:
    """``service delete``"""
    with connected(options) as channel:
        stub = ServiceServiceStub(channel)

        def make(text: str) -> str:
            namespace, name = service_name(text, options.namespace)
            request = service_pb2.DeleteServiceRequest(
                namespace=namespace, name=name, wait=not options.no_wait
            )
            answer = stub.DeleteService(request, timeout=options.timeout)
            what = f"service {namespace}/{name}"
            return (
                f"{what} deleted at revision {answer.revision}" if answer.existed else f"{what} was not there"
            )

        return make_all(options.names, make, options)


def from_flags(options: argparse.Namespace) -> service_pb2.Service:
    """The service that the flags describe.

    Raises:
        UsageError: a frontend is not what it must be.
    """
    namespace, name = service_name(options.name, options.namespace)
    service = service_pb2.Service(
        namespace=namespace,
        name=name,
        frontends=[frontend(text) for text in options.frontend],
        affinity_timeout_seconds=options.session_affinity,
        internal_traffic_local=options.internal_local,
        affinity=service_pb2.Affinity.Value(f"AFFINITY_{options.affinity.upper()}"),
        failover=options.failover,
        min_healthy_percent=options.min_healthy_percent,
        ramp_seconds=options.ramp,
        close_tcp=options.close_tcp,
        close_on_failover=options.close_on_failover,
        on_stale=service_pb2.OnStale.Value(f"ON_STALE_{(options.on_stale or 'unspecified').upper()}"),
    )
    # A keyword of Python.
    setattr(service, "global", options.is_global)
    return service

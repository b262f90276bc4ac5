"""``clustermesh``: look at what clusters share, share services of a file, copy peers, join them. Usable without any agent.

Exit status: 0 done, 1 failed (or, for dump, some record is not valid), 2 wrong usage. gRPC is imported only
once a command needs it, so that help and usage errors are quick.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clustermesh import doctor_cli, membership_cli, mirror_cli
from clustermesh.errors import ClustermeshError, InvalidRecord

if TYPE_CHECKING:
    from clustermesh.peers import Peer
    from clustermesh.publisher import Publisher
    from clustermesh.records import ClusterService


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    if hasattr(options, "do"):
        return membership_cli.run(options)
    _log_to_stderr()
    try:
        status: int = asyncio.run(options.run(options))
    except (ClustermeshError, OSError) as error:
        print(f"clustermesh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clustermesh", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="action")
    etcd = argparse.ArgumentParser(add_help=False)
    etcd.add_argument(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="etcd client YAML (endpoints, trusted-ca-file, ...)",
    )
    etcd.add_argument("--cluster", metavar="NAME", help="name of the cluster (default: the name of FILE)")

    dump = commands.add_parser("dump", parents=[etcd], help="list what a cluster shares, validated")
    dump.add_argument("-o", "--output", choices=("table", "json"), default="table")
    dump.set_defaults(run=_dump)

    publish = commands.add_parser("publish", parents=[etcd], help="share services until stopped")
    publish.add_argument("--id", type=int, required=True, help="cluster id, 1..255 (or 511)")
    publish.add_argument("--max-connected-clusters", type=int, choices=(255, 511), default=255)
    publish.add_argument(
        "--endpoint-slices-export-mode",
        choices=("", "services-and-endpointslices", "endpointslices-only"),
        default="",
        help="as what services are written (default: one value a service)",
    )
    publish.add_argument(
        "--services",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON list of services; read again on SIGHUP",
    )
    publish.add_argument("--election-ttl", type=int, default=15, metavar="SECONDS")
    publish.add_argument("--data-ttl", type=int, default=900, metavar="SECONDS")
    publish.set_defaults(run=_publish)
    mirror = commands.add_parser("mirror", help=mirror_cli.TOLD, description=mirror_cli.TOLD)
    mirror_cli.add_arguments(mirror)
    mirror.set_defaults(run=mirror_cli.run)
    doctor = commands.add_parser("doctor", help=doctor_cli.TOLD, description=doctor_cli.TOLD)
    doctor_cli.add_arguments(doctor)
    doctor.set_defaults(run=doctor_cli.run)
    membership_cli.add_commands(commands)
    return parser


def _log_to_stderr() -> None:
    import structlog  # noqa: PLC0415 - quick help

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _peer(options: argparse.Namespace) -> Peer:
    from clustermesh.errors import PeerFileError  # noqa: PLC0415 - with its neighbour
    from clustermesh.peers import parse_file  # noqa: PLC0415 - imports gRPC

    config: Path = options.config
    try:
        text = config.read_bytes()
    except OSError as error:
        raise PeerFileError(str(config), error.strerror or "cannot be read") from error
    return parse_file(str(config), options.cluster or config.name, text)


async def _dump(options: argparse.Namespace) -> int:
    from clustermesh import keys  # noqa: PLC0415 - with its neighbours
    from clustermesh.endpoint_slice import EndpointSlice, decode_slice  # noqa: PLC0415 - with its neighbours
    from clustermesh.kv import Kv  # noqa: PLC0415 - imports gRPC
    from clustermesh.records import SERVICES, decode_config, decode_service  # noqa: PLC0415 - with its neighbours
    from clustermesh.slice_merge import services_of  # noqa: PLC0415 - with its neighbours

    peer = _peer(options)
    async with Kv(peer.endpoints, credentials=peer.credentials, tls=peer.tls) as kv:
        item = await kv.get(keys.cluster_config(peer.name))
        if item is None:
            print(
                f"clustermesh: no cluster-config of {peer.name}: nothing is shared under this name",
                file=sys.stderr,
            )
            return 1
        config = decode_config(item.key, item.value or b"")
        form = "services" if config.endpoint_slices_export_mode == SERVICES else "endpointslices"
        synced = await kv.get(keys.canary(peer.name, form, cached=config.cached)) is not None
        of_form = keys.services_prefix if form == "services" else keys.slices_prefix
        prefix = of_form(peer.name, cached=config.cached)
        listing = await kv.list(prefix)
    decode = decode_service if form == "services" else decode_slice
    read: list[ClusterService | EndpointSlice] = []
    invalid: list[InvalidRecord] = []
    for one in listing.items:
        name = one.key.removeprefix(prefix)
        try:
            read.append(
                decode(one.key, one.value or b"", cluster=peer.name, name=name, cluster_id=config.cluster_id)
            )
        except InvalidRecord as error:
            invalid.append(error)
    services = [one for one in read if not isinstance(one, EndpointSlice)]
    services += services_of(one for one in read if isinstance(one, EndpointSlice)).values()
    shown = {
        "cluster": peer.name,
        "clusterID": config.cluster_id,
        "synced": synced,
        "revision": listing.revision,
        "services": [_shown(service) for service in services],
        "invalid": [{"key": error.key, "field": error.field, "reason": error.reason} for error in invalid],
    }
    print(json.dumps(shown, indent=2) if options.output == "json" else _table(shown))
    return 1 if invalid else 0


def _shown(service: ClusterService) -> dict[str, Any]:  # Any: JSON
    return {
        "name": service.full_name,
        "shared": service.shared,
        "frontends": _addresses(service.frontends),
        "backends": _addresses(service.backends),
    }


def _addresses(ports: Any) -> list[str]:  # Any: either of two mappings of records.Ports
    return [
        f"[{address}]:{port.number}/{port.protocol}"
        if address.version == 6
        else f"{address}:{port.number}/{port.protocol}"
        for address, named in ports.items()
        for port in named.values()
    ]


def _table(shown: dict[str, Any]) -> str:  # Any: JSON
    rows = [("SERVICE", "SHARED", "FRONTENDS", "BACKENDS")]
    for service in shown["services"]:
        texts = (",".join(service["frontends"]) or "-", ",".join(service["backends"]) or "-")
        rows.append((service["name"], "yes" if service["shared"] else "no", *texts))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    state = "synced" if shown["synced"] else "not synced yet"
    head = f"cluster {shown['cluster']} (id {shown['clusterID']}), revision {shown['revision']}, {state}"
    bad = [f"invalid: {one['key']}: {one['field']}: {one['reason']}" for one in shown["invalid"]]
    return "\n".join([head, *lines, *bad])


async def _publish(options: argparse.Namespace) -> int:
    from clustermesh.kv import Kv  # noqa: PLC0415 - imports gRPC
    from clustermesh.publisher import Publisher, PublisherOptions  # noqa: PLC0415 - imports gRPC
    from clustermesh.records import ClusterConfig  # noqa: PLC0415 - with its neighbours

    peer = _peer(options)
    times = PublisherOptions(election_ttl_s=options.election_ttl, data_ttl_s=options.data_ttl)
    config = ClusterConfig(
        options.id,
        max_connected_clusters=options.max_connected_clusters,
        endpoint_slices_export_mode=options.endpoint_slices_export_mode,
    )
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    async with Kv(peer.endpoints, credentials=peer.credentials, tls=peer.tls) as kv:
        publisher = Publisher(kv, peer.name, config, options=times)
        _hand_over(publisher, options.services, peer.name, options.id)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(
            signal.SIGHUP, _read_again, publisher, options.services, peer.name, options.id
        )
        running = asyncio.create_task(publisher.run())
        stopping = asyncio.create_task(stopped.wait())
        settled = asyncio.create_task(publisher.settled())
        settled.add_done_callback(lambda task: None if task.cancelled() else print("published", flush=True))
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (running, stopping, settled):
            task.cancel()
        await asyncio.gather(running, stopping, settled, return_exceptions=True)
    return 0 if stopped.is_set() else 1


def _hand_over(publisher: Publisher, path: Path, cluster: str, cluster_id: int) -> None:
    """Give the services of the file to the publisher; a bad one is named and left out."""
    from clustermesh.records import decode_service  # noqa: PLC0415 - quick help

    try:
        documents = json.loads(path.read_bytes())
        if not isinstance(documents, list):
            raise InvalidRecord(str(path), "value", "expected a JSON list of services")
    except ValueError as error:
        raise InvalidRecord(str(path), "value", f"is not JSON ({error})") from error
    services: list[ClusterService] = []
    for number, document in enumerate(documents):
        where = f"{path}[{number}]"
        name = f"{document.get('namespace')}/{document.get('name')}" if isinstance(document, dict) else ""
        try:
            value = json.dumps(document).encode()
            services.append(decode_service(where, value, cluster=cluster, name=name, cluster_id=cluster_id))
        except InvalidRecord as error:
            print(f"clustermesh: left out: {error}", file=sys.stderr)
    for refused in publisher.set_services(services).values():
        print(f"clustermesh: left out: {refused}", file=sys.stderr)


def _read_again(publisher: Publisher, path: Path, cluster: str, cluster_id: int) -> None:
    try:
        _hand_over(publisher, path, cluster, cluster_id)
    except (ClustermeshError, OSError) as error:
        print(f"clustermesh: {error}; what was read before stays", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

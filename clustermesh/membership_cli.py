"""The commands that make a cluster part of a mesh; of ``clustermesh`` and of ``meshctl clustermesh``.

Joining two clusters: on one `invite` the other, which `join`s with the file; then the same the other way round.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from clustermesh.errors import ClustermeshError

DIRECTORY = Path("/etc/meshd/clustermesh")
# Of an invitation: standard output, or input, so that no file with a key is left.
STANDARD = Path("-")
DAYS = 365


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to ``parser``."""
    add_commands(parser.add_subparsers(required=True, metavar="ACTION", dest="action"))


def add_commands(commands: Any) -> None:  # Any: argparse's action of subcommands, which has no public name
    """Adds the commands of this module to others."""

    def add(name: str, action: Any, told: str) -> argparse.ArgumentParser:  # Any: one of the functions below
        command: argparse.ArgumentParser = commands.add_parser(name, help=told, description=told)
        command.add_argument(
            "--directory",
            type=Path,
            default=DIRECTORY,
            metavar="DIR",
            help=f"this cluster's files (default: {DIRECTORY})",
        )
        command.set_defaults(do=action)
        return command

    init = add("init", _init, "make the authority, the certificates and the client file of this cluster")
    init.add_argument("--name", required=True, help="what the cluster is called in the mesh")
    init.add_argument("--id", type=int, required=True, help="its number there, 1..255 (or 511)")
    init.add_argument(
        "--network",
        type=ip_network,
        action="append",
        required=True,
        metavar="CIDR",
        help="in which its pods, nodes and backends have addresses; may be repeated",
    )
    init.add_argument(
        "--endpoint",
        action="append",
        default=[],
        metavar="URL",
        help="where peers reach its etcd, https://HOST:PORT; may be repeated",
    )
    init.add_argument(
        "--seen-as", type=Path, metavar="DIR", help="where nodes find the files (default: --directory)"
    )
    add("restrict", _restrict, "let etcd ask who somebody is; only this cluster's nodes may do everything")
    invite = add("invite", _invite, "let the nodes of another cluster read what this one shares")
    invite.add_argument("reader", metavar="CLUSTER")
    invite.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the invitation, - for standard output; it holds a key",
    )
    invite.add_argument(
        "--days", type=int, default=DAYS, help=f"how long its certificate lasts (default: {DAYS})"
    )
    join = add("join", _join, "read what a cluster shares, by its invitation")
    join.add_argument("invitation", type=Path, metavar="FILE", help="- for standard input")
    leave = add("leave", _leave, "do not read a cluster any more, and do not let it read")
    leave.add_argument("cluster", metavar="CLUSTER")
    add("status", _status, "this cluster, its peers, and when certificates end")
    rotate = add("rotate", _rotate, "new certificates, or a new authority, without an interruption")
    rotate.add_argument(
        "what",
        choices=("certificates", "authority"),
        help="authority: begin, then invite every peer anew and rotate certificates, then --finish",
    )
    rotate.add_argument("--finish", action="store_true", help="of the authority: trust only the new one")


def run(options: argparse.Namespace) -> int:
    """Does what ``options`` ask for; the exit status. Errors are one sentence on stderr."""
    quiet_grpc()
    try:
        return int(options.do(options))
    except (ClustermeshError, OSError) as error:
        print(f"clustermesh: {error}", file=sys.stderr)
        return 1


def _init(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - imports gRPC, and help is to be quick
    from clustermesh.invitation import Cluster  # noqa: PLC0415 - with its neighbour

    cluster = Cluster(
        options.name,
        options.id,
        tuple(options.network),
        tuple(options.endpoint),
        (options.seen_as or options.directory).absolute(),
    )
    made = membership.init(options.directory, cluster)
    print(f"made {options.directory}" if made else f"{options.directory} is there already")
    print(
        f"for etcd: --client-cert-auth and the files of {options.directory / membership.ETCD}; then `restrict`"
    )
    return 0


def _restrict(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above

    name = membership.own(options.directory).name
    change_access(options, options.directory)
    print(f"only admin-{name} may write to the etcd of {name}")
    return 0


def _invite(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above
    from clustermesh.invitation import render_invitation  # noqa: PLC0415 - as above

    invitation = membership.invite(options.directory, options.reader, datetime.timedelta(days=options.days))
    change_access(options, options.directory)
    write_invitation(options.output, render_invitation(invitation))
    if options.output != STANDARD:
        print(
            f"{options.output} lets {options.reader} read {invitation.cluster.name}; it holds a key: hand it over like one"
        )
    return 0


def _join(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above
    from clustermesh.invitation import parse_invitation  # noqa: PLC0415 - as above

    invitation = parse_invitation(read_invitation(options.invitation))
    changed = membership.join(options.directory, invitation)
    name = invitation.cluster.name
    networks = ", ".join(str(network) for network in invitation.cluster.networks)
    print(
        f"{name} is a peer with id {invitation.cluster.cluster_id} and nothing but {networks}"
        if changed
        else f"{name} was joined like that already"
    )
    return 0


def _leave(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above

    left = membership.leave(options.directory, options.cluster)
    print(f"{options.cluster} is no peer any more" if left else f"{options.cluster} was no peer")
    change_access(options, options.directory)
    print(f"its nodes may not read {membership.own(options.directory).name} any more")
    return 0


def _status(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above
    from clustermesh.doctor import SOON  # noqa: PLC0415 - as above

    cluster = membership.own(options.directory)
    print(f"{cluster.name}, id {cluster.cluster_id}, etcd at {', '.join(cluster.endpoints)}")
    for name, pin in membership.peers(options.directory).items():
        networks = ", ".join(str(network) for network in pin.networks) or "any address"
        print(f"peer {name}, id {pin.cluster_id or 'any'}: {networks}")
    now = datetime.datetime.now(datetime.UTC)
    late = False
    for one in membership.certificates(options.directory):
        left = one.expires - now
        word = "EXPIRED" if left < datetime.timedelta() else "soon" if left < SOON else ""
        late = late or bool(word)
        print(f"{one.path} ends {one.expires:%Y-%m-%d}, in {left.days} days {word}".rstrip())
    return 1 if late else 0


def _rotate(options: argparse.Namespace) -> int:
    from clustermesh import membership  # noqa: PLC0415 - as above

    if options.what == "certificates":
        membership.rotate_certificates(options.directory)
        print("new certificates of this cluster's etcd and nodes; those of peers come with a new invitation")
    elif options.finish:
        membership.finish_rotation(options.directory)
        print("only the new authority is trusted; etcd reads that when it starts")
    else:
        membership.begin_rotation(options.directory)
        print(
            "two authorities are trusted: restart etcd, invite every peer anew, `rotate certificates`, then --finish"
        )
    return 0


def write_invitation(path: Path, text: bytes) -> None:
    """``text`` is at ``path``, for its owner only; or on standard output."""
    from clustermesh.whole_file import write  # noqa: PLC0415 - as above

    if path == STANDARD:
        sys.stdout.write(text.decode())
        sys.stdout.flush()
    else:
        write(path, text)


def read_invitation(path: Path) -> bytes:
    """What is at ``path``, or on standard input."""
    return sys.stdin.buffer.read() if path == STANDARD else path.read_bytes()


def change_access(options: argparse.Namespace, directory: Path) -> None:
    """What `restrict`, `invite` or `leave` mean to the etcd of the cluster whose files are in ``directory``.

    Raises:
        KvError: etcd could not be asked; nothing says that it was not done.
    """
    from clustermesh import membership  # noqa: PLC0415 - as above
    from clustermesh.access import Access, access  # noqa: PLC0415 - as above
    from clustermesh.channel import TlsFiles, parse_endpoint  # noqa: PLC0415 - as above

    cluster, client = membership.own(directory), directory / membership.CLIENT
    # Where they lie here, which is not where nodes see them.
    tls = TlsFiles(client / membership.CA, client / "admin.crt", client / "admin.key")

    async def change(users: Access) -> None:
        match options.action:
            case "restrict":
                await users.restrict(cluster.name)
            case "invite":
                await users.admit(options.reader)
            case "leave":
                await users.dismiss(options.cluster)

    async def work() -> None:
        async with access([parse_endpoint(url) for url in cluster.endpoints], tls) as users:
            await change(users)

    asyncio.run(work())


def quiet_grpc() -> None:
    """gRPC prints no lines of its own beside our one sentence; to be called before it is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

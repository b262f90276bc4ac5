"""What each action of ``meshctl clustermesh`` does where the cluster is one of Kubernetes."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from clustermesh import membership, membership_cli
from clustermesh.errors import ClustermeshError
from clustermesh.etcd_members import Members, check
from clustermesh.invitation import Cluster, parse_invitation, render_invitation
from clustermesh.readers import Readers
from meshd.ctl.clustermesh import etcd, secrets
from meshd.ctl.clustermesh.secrets import Checkout
from meshd.ctl.errors import CtlError, UsageError
from meshd.ctl.kube import manifests
from meshd.ctl.kube.actions import apply, client_of
from meshd.errors import MeshError
from meshd.kubeapi.client import Client

SEEN_AS = Path("/etc/clustermesh")
"""Where the DaemonSet mounts the Secrets."""
Action = Callable[[argparse.Namespace, Client, Checkout], Awaitable[int]]


def run(options: argparse.Namespace) -> int:
    """The exit status of the action in ``options``.

    Raises:
        CtlError: it could not be done; what was done before stands, and it may be repeated.
    """
    actions: Mapping[str, Action] = {
        "init": init,
        "restrict": restrict,
        "invite": invite,
        "join": join,
        "leave": leave,
        "status": status,
        "rotate": rotate,
    }

    async def act() -> int:
        with secrets.directory() as directory:
            async with client_of(options) as client:
                taken = await secrets.take_out(client, options.namespace, directory)
                if options.action != "init" and "" not in taken.before:
                    raise CtlError(
                        f"namespace {options.namespace} has no part of a mesh: meshctl clustermesh init --kubernetes"
                    )
                return await actions[options.action](options, client, taken)

    try:
        return asyncio.run(act())
    except (MeshError, ClustermeshError) as error:
        raise CtlError(str(error)) from error


async def init(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """Secrets, and an etcd unless it is somebody else's."""
    namespace = options.namespace
    before = await etcd.declared(client, namespace)
    members = None
    if options.endpoint and options.etcd_node:
        raise UsageError("--endpoint says that the etcd is somebody else's, --etcd-node that it runs here")
    if not options.endpoint:
        members = await _members(options, client, before[0] if before else None)
    cluster = Cluster(
        options.name,
        options.id,
        tuple(options.network),
        tuple(options.endpoint) if members is None else members.endpoints,
        SEEN_AS,
    )
    made = membership.init(taken.directory, cluster)
    for each in manifests.objects(manifests.Choice(namespace)):
        if each["kind"] == "Namespace":
            await apply(client, each, dry_run=False)
    await _put_back(options, client, taken)
    say(f"{cluster.name} is made" if made else f"{cluster.name} is there already")
    if members is not None:
        wanted = before[1] if before else Readers(cluster.name)
        if before is None:
            await etcd.declare(client, namespace, members, wanted, None)
        await etcd.label_nodes(client, members)
        say(f"etcd runs on {', '.join(members.addresses)}, at {', '.join(members.endpoints)}")
        if not options.no_apply:
            await etcd.apply(client, namespace, members, options.etcd_image)
            await etcd.wait_in_force(client, namespace, wanted, options.timeout, say)
            say("etcd lets nobody in but this cluster's nodes")
    say("agents are part of the mesh after the next `meshctl kube install` or `meshctl kube upgrade`")
    return 0


async def _members(options: argparse.Namespace, client: Client, before: Members | None) -> Members:
    """As named; those that there are, where they are the same."""
    if before is not None and not options.etcd_node:
        return before
    chosen = await etcd.chosen_members(client, options.name, options.etcd_node)
    check(chosen)
    return before if before is not None and before.addresses == chosen.addresses else chosen


async def restrict(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """Of an etcd that is somebody else's; ours is from the start."""
    if await etcd.declared(client, options.namespace) is not None:
        say("the mesh's own etcd lets nobody in but this cluster's nodes already")
        return 0
    return await _with_files(options, taken)


async def invite(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """A file with a key; etcd lets its owner in."""
    days = datetime.timedelta(days=options.days)
    invitation = membership.invite(taken.directory, options.reader, days)
    await _readers(options, client, taken, lambda readers: readers.admitting(options.reader))
    membership_cli.write_invitation(options.output, render_invitation(invitation))
    say(
        f"the invitation lets {options.reader} read {invitation.cluster.name}; it holds a key: hand it over like one"
    )
    return 0


async def join(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """Agents read the cluster that invites."""
    text = await asyncio.to_thread(membership_cli.read_invitation, options.invitation)
    invitation = parse_invitation(text)
    membership.join(taken.directory, invitation)
    changed = await _put_back(options, client, taken)
    there = invitation.cluster
    networks = ", ".join(str(network) for network in there.networks)
    if changed:
        say(f"{there.name} is a peer with id {there.cluster_id} and nothing but {networks}")
        say(f"{await etcd.nudge(client, options.namespace, etcd.AGENTS)} agents are told")
    else:
        say(f"{there.name} was joined like that already")
    return 0


async def leave(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """Agents do not read the cluster any more, and it does not read this one."""
    left = membership.leave(taken.directory, options.cluster)
    await _put_back(options, client, taken)
    await etcd.nudge(client, options.namespace, etcd.AGENTS)
    say(f"{options.cluster} is no peer any more" if left else f"{options.cluster} was no peer")
    await _readers(options, client, taken, lambda readers: readers.dismissing(options.cluster))
    say(f"its nodes may not read {membership.own(taken.directory).name} any more")
    return 0


async def status(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """As of files; and how etcd is. Status 1: something is to be done."""
    options.directory = taken.directory
    late = membership_cli.run(options)
    if await etcd.declared(client, options.namespace) is None:
        return late
    bad = False
    for node, state in (await etcd.states(client, options.namespace)).items():
        if state is None:
            print(f"etcd {node}: its keeper says nothing")
            bad = True
            continue
        members: Mapping[str, Any] = state["members"]  # Any: JSON
        there = sum(each is not None for each in members.values())
        alarms = f", ALARM {' '.join(state['alarms'])}" if state["alarms"] else ""
        readers = ", ".join(state["readers"]) or "nobody else"
        print(f"etcd {node}: {there} of {len(members)} members answer{alarms}; {readers} may read")
        bad = bad or bool(alarms) or there < len(members)
    for line in (found := await etcd.troubles(client, options.namespace)):
        print(f"trouble {line}")
    return 1 if late or bad or found else 0


async def rotate(options: argparse.Namespace, client: Client, taken: Checkout) -> int:
    """New certificates or a new authority; etcd is restarted where it has to be."""
    directory = taken.directory
    if options.what == "certificates":
        membership.rotate_certificates(directory)
    elif options.finish:
        membership.finish_rotation(directory)
    else:
        membership.begin_rotation(directory)
    for line in await _put_back(options, client, taken):
        say(f"{line} is written")
    await etcd.nudge(client, options.namespace, etcd.AGENTS)
    own = await etcd.declared(client, options.namespace)
    if own is not None:
        await etcd.nudge(client, options.namespace, etcd.SELECTOR)
    if options.what == "authority" and own is not None:
        trusted = hashlib.sha256((directory / membership.ETCD / membership.CA).read_bytes()).hexdigest()
        await etcd.restart(client, options.namespace, trusted, options.timeout, say)
    say(_next(options, restarted=own is not None))
    return 0


def _next(options: argparse.Namespace, *, restarted: bool) -> str:
    if options.what == "certificates":
        return "new certificates of this cluster's etcd and nodes; those of peers come with a new invitation"
    restart = "" if restarted else "restart etcd, "
    if options.finish:
        return "only the new authority is trusted" + ("" if restarted else " once etcd is restarted")
    return (
        f"two authorities are trusted: {restart}invite every peer anew, `rotate certificates`, then --finish"
    )


async def _put_back(options: argparse.Namespace, client: Client, taken: Checkout) -> list[str]:
    return await secrets.put_back(client, options.namespace, taken)


async def _readers(
    options: argparse.Namespace, client: Client, taken: Checkout, change: Callable[[Readers], Readers]
) -> None:
    """Who may read is another; of our own etcd its keepers see to it, any other is asked from here."""
    own = await etcd.declared(client, options.namespace)
    if own is None:
        await _with_files(options, taken)
        return
    members, before, version = own
    wanted = change(before)
    if wanted != before:
        await etcd.declare(client, options.namespace, members, wanted, version)
        await etcd.nudge(client, options.namespace, etcd.SELECTOR)
    await etcd.wait_in_force(client, options.namespace, wanted, options.timeout, say)


async def _with_files(options: argparse.Namespace, taken: Checkout) -> int:
    """What the command does to etcd where there are files, from this machine."""
    await asyncio.to_thread(membership_cli.change_access, options, taken.directory)
    return 0


def say(line: str) -> None:
    """One line of progress, at once; on standard error, so that an invitation may go to standard output."""
    print(f"clustermesh: {line}", file=sys.stderr, flush=True)

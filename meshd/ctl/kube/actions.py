"""What each action of ``meshctl kube`` does, step by step, saying so."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from meshd.ctl.errors import CtlError, UsageError
from meshd.ctl.kube import (
    connectivity,
    facts,
    manifests,
    node_findings,
    node_look,
    preflight,
    removal,
    rollout,
)
from meshd.ctl.kube.connectivity_rows import Outcome, Row
from meshd.ctl.kube.findings import Accepted, Facts, Finding, Level, ordered
from meshd.ctl.kube.manifests import RESOURCES, Choice, Object
from meshd.ctl.kube.mesh import options_of_mesh
from meshd.ctl.output import GREEN, RED, YELLOW, coloured
from meshd.errors import ApiServerError, MeshError
from meshd.kubeapi import kubeconfig
from meshd.kubeapi.client import APPLY, OBJECT, Client
from meshd.kubeapi.resources import CONFIG_MAPS, DAEMON_SETS

NAME = "meshd"
COLOURS = {Level.OK: GREEN, Level.WARNING: YELLOW, Level.REFUSED: RED}
OUTCOMES = {Outcome.OK: GREEN, Outcome.UNKNOWN: YELLOW, Outcome.FAILED: RED}


def run(options: argparse.Namespace) -> int:
    """The exit status of the action in ``options``.

    Raises:
        CtlError: it could not be done; what was done before stands.
    """
    actions: Mapping[str, Callable[[argparse.Namespace, Client], Coroutine[Any, Any, int]]] = {
        "check": check,
        "install": install,
        "upgrade": upgrade,
        "uninstall": uninstall,
        "status": status,
    }
    if getattr(options, "show", False):
        choice = chosen(options, options.api_server, read_config(options))
        print(yaml.safe_dump_all(manifests.objects(choice), sort_keys=False), end="")
        return 0

    async def act() -> int:
        # As with Ctrl-C: what was made for a while only goes before we do.
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with client_of(options) as client:
            return await actions[options.action](options, client)

    try:
        return asyncio.run(act())
    except MeshError as error:
        raise CtlError(str(error)) from error
    except asyncio.CancelledError as error:
        raise CtlError("ended by SIGTERM") from error


def client_of(options: argparse.Namespace) -> Client:
    """A client as kubectl would be one.

    Raises:
        ConfigError: there is no kubeconfig, or it cannot be used.
    """
    paths = [options.kubeconfig] if options.kubeconfig else kubeconfig.default_paths()
    return Client(kubeconfig.load(*paths, context=options.context), user_agent="meshctl")


async def check(options: argparse.Namespace, client: Client) -> int:
    """All findings, or all rows of a test of connectivity; status 1 where one refuses or fails."""
    image = await image_of(options, client)
    if options.connectivity:
        if not image:
            raise CtlError(f"no meshd in namespace {options.namespace}: name an image, --image")
        return await test_connectivity(options, client, image, options.timeout)
    return (
        1
        if show(await look(options, client, await facts.gather(client, options.namespace), {}, image))
        else 0
    )


async def install(options: argparse.Namespace, client: Client) -> int:
    """Pre-flight, apply, wait."""
    found = await facts.gather(client, options.namespace, options.api_server)
    config = manifests.merged(await options_of_mesh(client, options.namespace), read_config(options))
    choice = chosen(options, found.api_servers, config)
    if show(await look(options, client, found, config, choice.image)):
        raise CtlError("nothing was changed: see what is refused above")
    return await put(options, client, choice)


async def upgrade(options: argparse.Namespace, client: Client) -> int:
    """The same for a cluster that has meshd: what is not named stays as it is, API servers are found anew."""
    try:
        config_map = await client.get(CONFIG_MAPS, NAME, options.namespace, into=OBJECT)
        before = await client.get(DAEMON_SETS, NAME, options.namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status == 404:
            raise CtlError(f"no meshd in namespace {options.namespace}: meshctl kube install") from error
        raise
    found = await facts.gather(client, options.namespace, options.api_server)
    known = manifests.merged(
        manifests.config_of(config_map), await options_of_mesh(client, options.namespace)
    )
    config = manifests.merged(known, read_config(options))
    choice = chosen(options, found.api_servers, config)
    if show(await look(options, client, found, config, choice.image)):
        raise CtlError("nothing was changed: see what is refused above")
    say(f"from {before['spec']['template']['spec']['containers'][0]['image']} to {choice.image}")
    return await put(options, client, choice)


async def look(
    options: argparse.Namespace, client: Client, found: Facts, config: Mapping[str, Any], image: str
) -> list[Finding]:
    """All findings; of nodes themselves where pods of ``image`` may look at them."""
    if image and not (
        options.no_node_look or getattr(options, "no_wait", False) or getattr(options, "dry_run", False)
    ):
        found = await node_look.with_looks(client, found, image, options.timeout, say)
    given = accepted(options, config)
    return ordered([*preflight.findings(found, given), *node_findings.findings(found, given)])


async def put(options: argparse.Namespace, client: Client, choice: Choice) -> int:
    """Applies ``choice`` and waits for all nodes."""
    for each in manifests.objects(choice):
        await apply(client, each, dry_run=options.dry_run)
        say(f"{each['kind']} {each['metadata']['name']} {'would be ' if options.dry_run else ''}applied")
    if options.dry_run or options.no_wait:
        return 0
    await rollout.wait(client, choice.namespace, NAME, options.timeout, say)
    say("meshd is on every node")
    if options.no_connectivity_test:
        return 0
    return await test_connectivity(options, client, choice.image, options.timeout)


async def test_connectivity(options: argparse.Namespace, client: Client, image: str, start_s: float) -> int:
    """Tries what pods have to reach, from pods; status 1 if anything failed."""
    wanted = connectivity.Wanted(image, options.node, options.outside, start_s)
    found = await connectivity.test(client, wanted, say)
    show_rows(found)
    bad = sum(each.outcome is Outcome.FAILED for each in found)
    if not bad:
        say(f"pods reach what they have to: {len(found)} tries")
        return 0
    say(f"{bad} of {len(found)} tries failed: see above where to look")
    return 1


async def image_of(options: argparse.Namespace, client: Client) -> str:
    """The image that the user names, else that of the agents; empty: neither."""
    if options.image:
        return str(options.image)
    try:
        agents = await client.get(DAEMON_SETS, NAME, options.namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status == 404:
            return ""
        raise
    return str(agents["spec"]["template"]["spec"]["containers"][0]["image"])


async def apply(client: Client, each: Object, *, dry_run: bool) -> None:
    """``each`` is in the cluster as it says, whoever else had a word in it.

    Raises:
        ApiServerError: it was refused.
    """
    resource = RESOURCES[each["kind"]]
    metadata = each["metadata"]
    try:
        await client.patch(
            resource,
            metadata["name"],
            each,
            metadata.get("namespace", ""),
            into=OBJECT,
            kind=APPLY,
            field_manager=manifests.MANAGER,
            force=True,
            dry_run=dry_run,
        )
    except ApiServerError as error:
        # Of a namespace that a dry run did not make, nothing in it can be tried.
        if not (dry_run and error.status == 404 and "namespace" in metadata):
            raise
        say(f"{each['kind']} {metadata['name']} cannot be tried before its namespace is there")


async def uninstall(options: argparse.Namespace, client: Client) -> int:
    """Agents end, nodes are given back, and then all objects go."""
    if await options_of_mesh(client, options.namespace) and options.namespace == manifests.NAMESPACE:
        say("the mesh's etcd and authority go with the namespace: peers will have to be invited again")
    await removal.remove(options, client, say)
    return 0


async def status(options: argparse.Namespace, client: Client) -> int:
    """How the agents are; status 1 unless all are well."""
    try:
        daemon_set = await client.get(DAEMON_SETS, NAME, options.namespace, into=OBJECT)
    except ApiServerError as error:
        if error.status == 404:
            raise CtlError(f"no meshd in namespace {options.namespace}") from error
        raise
    progress, problems = await rollout.look(client, options.namespace, NAME)
    print(f"image     {daemon_set['spec']['template']['spec']['containers'][0]['image']}")
    print(f"agents    {progress}")
    policies = await facts.policies_of(client)
    count = sum(map(len, policies.values()))
    print(f"policies  {f'{count} that nobody enforces' if count else 'there are none'}")
    for line in problems:
        print(f"trouble   {line}")
    return 0 if progress.is_done and not problems else 1


def chosen(options: argparse.Namespace, api_servers: Iterable[str], config: Mapping[str, Any]) -> Choice:
    """What the command line chooses."""
    if options.without_kube_proxy:
        # So that agents say what is not served.
        config = manifests.merged(config, {"kubernetes": {"kubeProxy": False}})
    return Choice(options.namespace, options.image or Choice().image, config, tuple(api_servers))


def accepted(options: argparse.Namespace, config: Mapping[str, Any]) -> Accepted:
    """What the command line accepts; that there is no kube-proxy the agents' configuration may say as well."""
    kubernetes = config.get("kubernetes")
    says_without = isinstance(kubernetes, dict) and kubernetes.get("kubeProxy") is False
    return Accepted(
        without_kube_proxy=options.without_kube_proxy or says_without,
        unenforced_policies=options.accept_unenforced_policies,
        unserved_ports=options.accept_unserved_ports,
        other_cni=options.accept_other_cni,
    )


def read_config(options: argparse.Namespace) -> Mapping[str, Any]:
    """Options of agents in the file that the user named; none: he named no file.

    Raises:
        UsageError: it is no YAML mapping.
    """
    path: Path | None = options.config
    if path is None:
        return {}
    try:
        said = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(said, dict):
        raise UsageError(f"{path} is no mapping of options to values")
    return said


def show(found: list[Finding]) -> bool:
    """Prints ``found``; whether any refuses."""
    width = max(len(each.about) for each in found)
    for each in found:
        word = coloured(f"{each.level.value:8}", COLOURS[each.level])
        print(f"{word} {each.about:{width}}  {each.said}")
        if each.remedy:
            print(f"{'':8} {'':{width}}  -> {each.remedy}")
    sys.stdout.flush()
    return any(each.level is Level.REFUSED for each in found)


def show_rows(found: list[Row]) -> None:
    """Prints ``found``, those that failed last, where they are read."""
    ordered = sorted(found, key=lambda each: list(Outcome).index(each.outcome))
    cells = [(each.node, each.what, each.tried, each.said) for each in ordered]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row, texts in zip(ordered, cells, strict=True):
        word = coloured(f"{row.outcome.value:8}", OUTCOMES[row.outcome])
        line = "  ".join(f"{text:{width}}" for text, width in zip(texts, widths, strict=True))
        print(f"{word} {line}".rstrip())
        if row.look:
            print(f"{'':8} -> {row.look}")
    sys.stdout.flush()


def say(line: str) -> None:
    """One line of progress, at once."""
    print(f"meshd: {line}", flush=True)

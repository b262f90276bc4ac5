"""A ladder in the kernel: the shares of its rungs are those of the maps, and of the connections that are made."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from fractions import Fraction

from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.layouts import Endpoint, SlotKey
from meshd.model import Address, Protocol, format_address, parse_address
from meshd.model import Node as Machine
from meshd.model.failover import parse_ladder
from meshd.state import Mesh
from tests.netns.dataplane.node import BACKENDS4, VIP4, Node, backend, backends, service, serving

LADDER = parse_ladder("local, cluster:cm-2 weight 3 + cluster:cm-3 weight 1")
HERE, SECOND, THIRD = BACKENDS4


def shares(dataplane: Dataplane) -> dict[str, float]:
    """Backend -> how often TCP connections to the service's address are given it, as the kernel's maps have it."""
    layouts, maps = dataplane.layouts, dataplane.maps
    frontend = Endpoint(parse_address(VIP4), 80, Protocol.TCP)
    found = maps["frontends"].lookup(layouts.endpoint.encode(frontend))
    assert found is not None
    row = layouts.service.decode(found)
    drawn: defaultdict[str, Fraction] = defaultdict(Fraction)
    for index in range(row.slots):
        value = maps["slots"].lookup(layouts.slot_key.encode(SlotKey(row.list, index, frontend)))
        assert value is not None
        slot = layouts.slot.decode(value)
        own = Fraction(slot.threshold + 1, 2**32)
        drawn[format_address(Address(slot.backend.address))] += own / row.slots
        drawn[format_address(Address(slot.alias.address))] += (1 - own) / row.slots
    return {address: round(float(share), 6) for address, share in drawn.items() if share}


async def test_the_shares_of_rungs_are_those_of_the_maps_and_of_connections(node: Node) -> None:
    with serving(node, *BACKENDS4):
        async with node.agent() as dataplane:
            node.mesh.replace(
                "cluster:cm-2", [backends(backend(SECOND), source="cluster:cm-2", cluster="cm-2")]
            )
            node.mesh.replace(
                "cluster:cm-3", [backends(backend(THIRD), source="cluster:cm-3", cluster="cm-3")]
            )
            laddered = service(is_global=True, failover=LADDER, min_healthy_percent=100)
            node.mesh.replace("manifests", [laddered, backends(backend(HERE))])
            await node.settle()
            assert shares(dataplane) == {HERE: 1.0}

            # Half of this cluster's is ill: it keeps half, the other half goes to the next rung, three to one.
            ill = backend("127.0.0.14", ready=False, serving=False)
            await node.settle(node.mesh.apply("manifests", [backends(backend(HERE), ill)]))
            assert shares(dataplane) == {HERE: 0.5, SECOND: 0.375, THIRD: 0.125}
            counted = Counter(node.ask(VIP4) for _ in range(800))
            # Binomial: mean 400, 300 and 100, standard deviations 14.2, 13.7 and 9.4; five of them.
            assert 329 <= counted[HERE] <= 471
            assert 231 <= counted[SECOND] <= 369
            assert 53 <= counted[THIRD] <= 147

            await node.settle(node.mesh.apply("manifests", [backends(ill)]))
            assert shares(dataplane) == {SECOND: 0.75, THIRD: 0.25}


async def test_shares_stand_over_a_restart_while_the_other_clusters_have_not_listed(node: Node) -> None:
    laddered = service(is_global=True, failover=LADDER, min_healthy_percent=100)
    here = backends(backend(HERE), backend("127.0.0.14", ready=False, serving=False))
    expected = {HERE: 0.5, SECOND: 0.375, THIRD: 0.125}
    async with node.agent() as dataplane:
        node.mesh.replace("cluster:cm-2", [backends(backend(SECOND), source="cluster:cm-2", cluster="cm-2")])
        node.mesh.replace("cluster:cm-3", [backends(backend(THIRD), source="cluster:cm-3", cluster="cm-3")])
        node.mesh.replace("manifests", [laddered, here])
        await node.settle()
        assert shares(dataplane) == expected
    node.mesh = Mesh()
    node.mesh.listing("cluster:cm-2")
    node.mesh.listing("cluster:cm-3")
    async with node.agent() as dataplane:
        await node.settle(node.mesh.replace("manifests", [laddered, here]))
        assert shares(dataplane) == expected


async def test_a_cluster_that_is_back_is_given_its_share_step_by_step(node: Node) -> None:
    local = service(is_global=True, failover=parse_ladder("local, any"), ramp_s=2)
    ill = backends(backend(HERE, ready=False, serving=False))
    async with node.agent() as dataplane:
        node.mesh.replace("cluster:cm-2", [backends(backend(SECOND), source="cluster:cm-2", cluster="cm-2")])
        node.mesh.replace("manifests", [local, backends(backend(HERE))])
        await node.settle()
        assert shares(dataplane) == {HERE: 1.0}
        await node.settle(node.mesh.apply("manifests", [ill]))
        assert shares(dataplane) == {SECOND: 1.0}
        await node.settle(node.mesh.apply("manifests", [backends(backend(HERE))]))
        seen = [shares(dataplane)[HERE]]
        async with asyncio.timeout(30):
            while seen[-1] < 1.0:
                await node.mesh.moved()
                await node.settle()
                seen.append(shares(dataplane)[HERE])
        assert seen[0] < 0.5
        assert seen == sorted(seen)
        assert shares(dataplane) == {HERE: 1.0}


async def test_backends_of_this_nodes_region_go_before_others_as_soon_as_nodes_say_where_they_are(
    node: Node,
) -> None:
    regional = service(is_global=True, failover=parse_ladder("region, any"), min_healthy_percent=0)
    near = Machine("cm-2", "n1", "cluster:cm-2", pod_cidrs=(f"{SECOND}/32",))
    far = Machine("cm-3", "n1", "cluster:cm-3", pod_cidrs=(f"{THIRD}/32",))
    own = Machine("cm-1", "node-1", "manifests", region="west")
    third = round(1 / 3, 6)
    async with node.agent() as dataplane:
        for machine, at in ((near, SECOND), (far, THIRD)):
            named = backends(backend(at), source=machine.source, cluster=machine.cluster)
            node.mesh.replace(machine.source, [machine, named])
        node.mesh.replace("manifests", [regional, backends(backend(HERE)), own])
        await node.settle()
        assert shares(dataplane) == dict.fromkeys(BACKENDS4, third)
        node.mesh.apply(far.source, [replace(far, region="east")])
        node.mesh.apply(near.source, [replace(near, region="west")])
        await node.settle()
        assert shares(dataplane) == {SECOND: 1.0}
        await node.settle(node.mesh.apply("manifests", [replace(own, region="east")]))
        assert shares(dataplane) == {THIRD: 1.0}
        await node.settle(node.mesh.apply("manifests", [replace(own, region="north")]))
        assert shares(dataplane) == dict.fromkeys(BACKENDS4, third)

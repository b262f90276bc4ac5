"""/metrics as a scraper sees it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshd.errors import ConfigError
from meshd.model import Cluster, ClusterState, Service, ServiceName
from meshd.servers.metrics import MetricsServer, place_of
from meshd.state import Mesh
from tests.fakes.dataplane import FakeDataplane

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@asynccontextmanager
async def serving(mesh: Mesh, listen: str = "127.0.0.1:0") -> AsyncIterator[MetricsServer]:
    """A server of the metrics of ``mesh`` and of a fake dataplane."""
    server = MetricsServer(listen, mesh, FakeDataplane(mesh).introspection())
    running = asyncio.create_task(server.run())
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({running, listening}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield server
    finally:
        for task in (running, listening):
            task.cancel()
            with suppress(asyncio.CancelledError, ConfigError):
                await task


async def text_of(server: MetricsServer) -> str:
    url = f"http://127.0.0.1:{server.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


async def scraped(server: MetricsServer) -> Values:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(await text_of(server))
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


async def test_a_scraper_reads_what_the_mesh_and_the_dataplane_say_now() -> None:
    mesh = Mesh()
    async with serving(mesh) as server:
        mesh.replace(
            "manifests",
            [
                Service(ServiceName("default", "web"), "manifests"),
                Cluster("cm-2", "manifests", 2, state=ClusterState.STALE),
            ],
        )
        mesh.mark_stale("cluster:cm-2", "no route")
        values = await scraped(server)
    expected = {
        of("meshd_revision"): 1,
        of("meshd_reconcile_pending"): mesh.pending,
        of("meshd_reconcile_failures_total"): 4,
        of("meshd_services", source="manifests"): 1,
        of("meshd_source_complete", source="cluster:cm-2"): 0,
        of("meshd_source_stale", source="cluster:cm-2"): 1,
        of("meshd_source_complete", source="manifests"): 1,
        of("meshd_map_entries", map="slots"): 950,
        of("meshd_map_pressure_ratio", map="slots"): 0.95,
        of("meshd_map_capacity_entries", map="counters"): 16,
        of("meshd_cluster_state", cluster="cm-2", state="stale"): 1,
        of("meshd_cluster_state", cluster="cm-2", state="synced"): 0,
        of("meshd_cluster_lag_seconds", cluster="cm-2"): 0.02,
        of("meshd_cluster_stale_services", cluster="cm-2"): 0,
        of("meshd_cluster_held_services", cluster="cm-2"): 0,
        of("meshd_cluster_refused_records_total", cluster="cm-2", reason="wrong cluster"): 2,
        of("meshd_sockets_destroyed_total", service="default/web"): 3,
    }
    assert {key: values.get(key) for key in expected} == expected
    assert of("meshd_map_entries", map="counters") not in values


async def test_every_name_is_ours_and_has_help() -> None:
    async with serving(Mesh()) as server:
        families = list(text_string_to_metric_families(await text_of(server)))
    assert {family.name for family in families if not family.name.startswith("meshd_")} == set()
    assert {family.name for family in families if not family.documentation} == set()
    assert {"meshd_process_resident_memory_bytes", "meshd_process_cpu_seconds"} <= {
        one.name for one in families
    }


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics\.listen .*:{port}: Address already in use"):
            async with serving(Mesh(), f"127.0.0.1:{port}"):
                pass


@pytest.mark.parametrize("listen", ["", "localhost", "localhost:", "localhost:http", "localhost:70000"])
def test_an_address_that_is_none_is_named(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        place_of(listen)


def test_ipv6_addresses_stand_in_brackets() -> None:
    assert place_of("[::1]:9100") == ("::1", 9100)

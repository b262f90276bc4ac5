"""Manifests in, tables of the mesh out: a real directory, real inotify, a real Mesh."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshd.model import Frontend, Namespace, Protocol, Service, ServiceName, parse_address
from meshd.sources.manifests import SOURCE, Manifests
from meshd.state import Mesh, SourceState

WEB = ServiceName("galaxy", "web")
API = ServiceName("galaxy", "api")
DB = ServiceName("galaxy", "db")


def service(name: str, address: str, port: int | str = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: galaxy}}\n"
        f"spec: {{clusterIP: {address}, ports: [{{port: {port}}}]}}\n"
    )


def backends(name: str, *addresses: str) -> str:
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
        f"metadata: {{name: {name}-1, namespace: galaxy, labels: {{kubernetes.io/service-name: {name}}}}}\n"
        f"ports: [{{port: 8080}}]\nendpoints: {json.dumps([{'addresses': [a]} for a in addresses])}\n"
    )


def namespace(name: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"


class Running:
    """A source at work on a directory, and the mesh it writes."""

    def __init__(self, mesh: Mesh, directory: Path) -> None:
        self.mesh = mesh
        self.directory = directory
        self.source = Manifests(mesh, directory, cluster="cm-1", node="node-1")
        self._barriers = 0

    def write(self, file: str, *documents: str) -> None:
        (self.directory / file).write_text("---\n".join(documents))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await self.mesh.moved()

    async def read_up_to_here(self) -> None:
        """Until everything written so far has been read: a file written now is in force."""
        self._barriers += 1
        name = f"barrier-{self._barriers}"
        self.write("zz-barrier.yaml", namespace(name))
        await self.until(lambda: (SOURCE, name) in self.mesh.namespaces)

    @property
    def state(self) -> SourceState:
        return self.mesh.sources[SOURCE].state

    def frontend(self, name: ServiceName) -> str | None:
        found = self.mesh.services.get((SOURCE, name))
        return None if found is None else f"{found.frontends[0].address[-1]}:{found.frontends[0].port}"

    def problems(self) -> list[tuple[str, int, str]]:
        return [(p.file, p.line, p.field) for p in self.source.problems()]


@asynccontextmanager
async def running(directory: Path, mesh: Mesh | None = None) -> AsyncIterator[Running]:
    it = Running(mesh or Mesh(), directory)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(it.source.run())
        try:
            await it.until(lambda: SOURCE in it.mesh.sources)
            yield it
        finally:
            task.cancel()


@asynccontextmanager
async def complete(directory: Path, mesh: Mesh | None = None) -> AsyncIterator[Running]:
    async with running(directory, mesh) as it:
        await it.until(lambda: it.state is SourceState.COMPLETE)
        yield it


async def test_manifests_become_services_and_backends(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service("web", "10.96.0.1") + "---\n" + backends("web", "10.0.0.1"))
    async with complete(tmp_path) as it:
        expected = Frontend(parse_address("10.96.0.1"), 80, Protocol.TCP)
        found = it.mesh.service(WEB)
        assert found is not None
        assert found.frontends == (expected,)
        (slice_,) = it.mesh.slices_of(WEB)
        assert [b.address for b in slice_.backends] == [parse_address("10.0.0.1")]
        assert slice_.cluster == "cm-1"


async def test_yaml_lists_and_json_are_read_too(tmp_path: Path) -> None:
    import yaml

    items = [yaml.safe_load(service("web", "10.96.0.1")), yaml.safe_load(service("api", "10.96.0.2"))]
    (tmp_path / "list.json").write_text(
        json.dumps({"apiVersion": "v1", "items": items, "kind": "List"}, indent="\t")
    )
    typed = {"apiVersion": "v1", "kind": "ServiceList", "items": [yaml.safe_load(service("db", "10.96.0.3"))]}
    for item in typed["items"]:
        del item["kind"], item["apiVersion"]
    (tmp_path / "list.yml").write_text(yaml.safe_dump(typed))
    async with complete(tmp_path) as it:
        assert (it.frontend(WEB), it.frontend(API), it.frontend(DB)) == ("1:80", "2:80", "3:80")
        assert it.problems() == []


async def test_changes_additions_and_removals_follow_the_files(tmp_path: Path) -> None:
    async with complete(tmp_path) as it:
        it.write("web.yaml", service("web", "10.96.0.1"))
        await it.until(lambda: it.frontend(WEB) == "1:80")
        it.write("web.yaml", service("web", "10.96.0.9"), service("api", "10.96.0.2"))
        await it.until(lambda: it.frontend(WEB) == "9:80" and it.frontend(API) == "2:80")
        it.write("web.yaml", service("api", "10.96.0.2"))
        await it.until(lambda: it.frontend(WEB) is None)
        (tmp_path / "web.yaml").rename(tmp_path / "renamed.yaml")
        (tmp_path / "renamed.yaml").rename(tmp_path / "disabled.yaml.off")
        await it.until(lambda: it.frontend(API) is None)


async def test_a_slice_that_names_another_service_moves_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(backends("web", "10.0.0.1"))
    async with complete(tmp_path) as it:
        it.write("a.yaml", backends("web", "10.0.0.1").replace("name: web}", "name: api}"))
        await it.until(lambda: bool(list(it.mesh.slices_of(API))))
        assert list(it.mesh.slices_of(WEB)) == []


async def test_only_manifests_are_read_in_a_flat_directory(tmp_path: Path) -> None:
    for name in (".hidden.yaml", "web.yaml~", "#web.yaml#", "web.yaml.swp", "README.md", ".web.yaml.tmp"):
        (tmp_path / name).write_text(service("web", "10.96.0.1"))
    (tmp_path / "sub.yaml").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "web.yaml").write_text(service("web", "10.96.0.1"))
    async with complete(tmp_path) as it:
        await it.read_up_to_here()
        assert list(it.mesh.services.values()) == []


async def test_empty_documents_and_comments_say_nothing(tmp_path: Path) -> None:
    text = f"# a\n---\n---\n{service('web', '10.96.0.1')}---\n# {{{{ template }}}}\n\n---\n...\n"
    (tmp_path / "web.yaml").write_text("%YAML 1.1\n" + text)
    async with complete(tmp_path) as it:
        assert (it.frontend(WEB), it.problems()) == ("1:80", [])


async def test_a_bad_document_is_named_and_costs_only_itself(tmp_path: Path) -> None:
    bad = service("api", "10.96.0.2", port=70000)
    (tmp_path / "all.yaml").write_text(
        "---\n".join([service("web", "10.96.0.1"), bad, service("db", "10.96.0.3")])
    )
    async with complete(tmp_path) as it:
        assert (it.frontend(WEB), it.frontend(API), it.frontend(DB)) == ("1:80", None, "3:80")
        (problem,) = it.source.problems()
        assert (problem.file, problem.line, problem.field) == ("all.yaml", 9, "spec.ports[0].port")
        assert problem.object_name == "Service galaxy/api"


async def test_the_last_good_version_of_a_document_stays_in_force(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service("web", "10.96.0.1"))
    async with complete(tmp_path) as it:
        it.write("web.yaml", service("web", "10.96.0.300"), service("api", "10.96.0.2"))
        await it.until(lambda: it.frontend(API) == "2:80")
        assert it.frontend(WEB) == "1:80"
        assert it.problems() == [("web.yaml", 4, "spec.clusterIP")]
        it.write("web.yaml", service("web", "10.96.0.3"), service("api", "10.96.0.2"))
        await it.until(lambda: it.frontend(WEB) == "3:80")
        assert it.problems() == []


async def test_a_last_good_version_is_gone_when_its_document_is_removed(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service("web", "10.96.0.1"))
    async with complete(tmp_path) as it:
        it.write("web.yaml", service("web", "10.96.0.300"))
        await it.read_up_to_here()
        assert it.frontend(WEB) == "1:80"
        it.write("web.yaml", "# nothing\n")
        await it.until(lambda: it.frontend(WEB) is None)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("spec: [\n", id="syntax"),
        pytest.param("kind: Service\nspec: {}\n", id="no name"),
        pytest.param("- just\n- a list\n", id="no object"),
        pytest.param("a: \x01\n", id="not yaml"),
    ],
)
async def test_while_a_document_cannot_be_identified_its_file_loses_nothing(
    tmp_path: Path, broken: str
) -> None:
    (tmp_path / "a.yaml").write_text(service("web", "10.96.0.1") + "---\n" + service("api", "10.96.0.2"))
    async with complete(tmp_path) as it:
        # web is broken beyond recognition; api, in the same file, goes on changing.
        it.write("a.yaml", broken, service("api", "10.96.0.9"))
        await it.until(lambda: it.frontend(API) == "9:80")
        assert it.frontend(WEB) == "1:80"
        assert len(it.problems()) == 1
        it.write("a.yaml", service("api", "10.96.0.9"))
        await it.until(lambda: it.frontend(WEB) is None)


async def test_a_json_file_that_does_not_parse_keeps_what_it_said(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "a.json").write_text(json.dumps(yaml.safe_load(service("web", "10.96.0.1"))))
    async with complete(tmp_path) as it:
        it.write("a.json", '{"kind":\n  "Service",,}')
        await it.read_up_to_here()
        assert (it.frontend(WEB), it.problems()) == ("1:80", [("a.json", 2, "syntax")])


async def test_an_error_in_an_item_of_a_json_list_has_its_line(tmp_path: Path) -> None:
    import yaml

    items = [yaml.safe_load(service("web", "10.96.0.1")), yaml.safe_load(service("api", "10.96.0.2", 0))]
    text = json.dumps({"kind": "List", "apiVersion": "v1", "items": items}, indent="\t")
    (tmp_path / "a.json").write_text(text)
    line = [number for number, row in enumerate(text.splitlines(), 1) if '"port": 0' in row]
    async with complete(tmp_path) as it:
        assert it.problems() == [("a.json", line[0], "spec.ports[0].port")]
        assert it.frontend(WEB) == "1:80"


async def test_of_two_files_that_name_an_object_the_first_by_name_wins(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(service("web", "10.96.0.2"))
    async with complete(tmp_path) as it:
        assert it.frontend(WEB) == "2:80"
        it.write("a.yaml", service("web", "10.96.0.1"))
        await it.until(lambda: it.frontend(WEB) == "1:80")
        (problem,) = it.source.problems()
        assert (problem.file, problem.line, "a.yaml" in problem.reason) == ("b.yaml", 1, True)
        (tmp_path / "a.yaml").unlink()
        await it.until(lambda: it.frontend(WEB) == "2:80")
        assert it.problems() == []


async def test_of_two_documents_of_a_file_that_name_an_object_the_first_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("web", "10.96.0.1") + "---\n" + service("web", "10.96.0.2"))
    async with complete(tmp_path) as it:
        assert (it.frontend(WEB), it.problems()) == ("1:80", [("a.yaml", 6, "metadata.name")])


async def test_a_missing_directory_is_out_of_reach_and_read_when_it_comes(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    async with running(directory) as it:
        await it.until(lambda: it.state is SourceState.STALE)
        status = it.mesh.sources[SOURCE]
        assert (status.complete_once, "No such file" in status.reason) == (False, True)
        assert len(it.source.problems()) == 1
        directory.mkdir()
        it.write("web.yaml", service("web", "10.96.0.1"))
        await it.until(lambda: it.state is SourceState.COMPLETE)
        assert (it.frontend(WEB), it.problems()) == ("1:80", [])


async def test_a_file_in_place_of_the_directory_is_out_of_reach(tmp_path: Path) -> None:
    (tmp_path / "manifests").write_text("")
    async with running(tmp_path / "manifests") as it:
        await it.until(lambda: it.state is SourceState.STALE)
        assert "Not a directory" in it.mesh.sources[SOURCE].reason


@pytest.mark.parametrize("how", ["moved away", "removed"])
async def test_a_directory_that_vanishes_takes_nothing_with_it(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "web.yaml").write_text(service("web", "10.96.0.1"))
    (directory / "api.yaml").write_text(service("api", "10.96.0.2"))
    async with complete(directory) as it:
        if how == "removed":
            shutil.rmtree(directory)
        else:
            directory.rename(tmp_path / "elsewhere")
        await it.until(lambda: it.state is SourceState.STALE)
        assert (it.frontend(WEB), it.frontend(API)) == ("1:80", "2:80")
        # What the directory does not say when it is back is gone.
        directory.mkdir()
        it.write("web.yaml", service("web", "10.96.0.9"))
        await it.until(lambda: it.state is SourceState.COMPLETE)
        assert (it.frontend(WEB), it.frontend(API)) == ("9:80", None)


async def test_a_file_is_not_read_while_it_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("web", "10.96.0.1"))
    seen: list[str | None] = []
    async with complete(tmp_path) as it:
        it.mesh.observe(lambda *_: seen.append(it.frontend(WEB)))
        with (tmp_path / "a.yaml").open("w") as file:
            await it.read_up_to_here()
            file.write(service("web", "10.96.0.2")[:20])
            file.flush()
            await it.read_up_to_here()
            file.write(service("web", "10.96.0.2")[20:])
        await it.until(lambda: it.frontend(WEB) == "2:80")
        assert (set(seen), it.problems()) == ({"1:80", "2:80"}, [])


async def test_a_mounted_config_map_is_swapped_as_a_whole(tmp_path: Path) -> None:
    for version, address in (("..v1", "10.96.0.1"), ("..v2", "10.96.0.2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "web.yaml").write_text(service("web", address))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    async with complete(tmp_path) as it:
        assert it.frontend(WEB) == "1:80"
        (tmp_path / "..tmp").symlink_to("..v2")
        (tmp_path / "..tmp").rename(tmp_path / "..data")
        await it.until(lambda: it.frontend(WEB) == "2:80")


async def test_a_file_that_cannot_be_read_keeps_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").symlink_to("target")
    (tmp_path / "target").write_text(service("web", "10.96.0.1"))
    async with complete(tmp_path) as it:
        (tmp_path / "target").unlink()
        (tmp_path / "web.yaml").unlink()
        (tmp_path / "web.yaml").symlink_to("target")
        await it.read_up_to_here()
        assert (it.frontend(WEB), it.problems()) == ("1:80", [("web.yaml", 0, "file")])
        it.write("latin.yaml", service("api", "10.96.0.2"))
        await it.until(lambda: it.frontend(API) == "2:80")
        (tmp_path / "latin.yaml").write_bytes(b"# caf\xe9\n")
        await it.read_up_to_here()
        assert (it.frontend(API), it.problems()[0][0]) == ("2:80", "latin.yaml")


def held_from_before(*names: ServiceName) -> Mesh:
    """A mesh as a restart leaves it: what the snapshot held is in force, and its source has not listed yet."""
    mesh = Mesh()
    mesh.listing(SOURCE)
    frontend = Frontend(parse_address("10.96.0.77"), 80, Protocol.TCP)
    mesh.apply(SOURCE, [Service(name, SOURCE, (frontend,)) for name in names])
    return mesh


async def test_after_a_restart_what_no_manifest_names_is_gone_once_all_are_read(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service("web", "10.96.0.1"))
    async with complete(tmp_path, held_from_before(WEB, API)) as it:
        assert (it.frontend(WEB), it.frontend(API)) == ("1:80", None)


async def test_after_a_restart_the_last_good_version_is_the_one_from_before(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(service("web", "10.96.0.300"))
    async with complete(tmp_path, held_from_before(WEB, API)) as it:
        assert (it.frontend(WEB), it.frontend(API)) == ("77:80", None)


async def test_after_a_restart_nothing_is_gone_while_a_document_cannot_be_identified(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text("spec: [\n---\n" + service("db", "10.96.0.3"))
    async with running(tmp_path, held_from_before(WEB, API)) as it:
        await it.until(lambda: it.state is SourceState.STALE)
        assert (it.frontend(WEB), it.frontend(API), it.frontend(DB)) == ("77:80", "77:80", "3:80")
        assert "web.yaml:1" in it.mesh.sources[SOURCE].reason
        it.write("web.yaml", service("web", "10.96.0.1"))
        await it.until(lambda: it.state is SourceState.COMPLETE)
        assert (it.frontend(WEB), it.frontend(API), it.frontend(DB)) == ("1:80", None, None)


async def test_ten_thousand_objects_are_taken_in_revisions_that_let_others_work(tmp_path: Path) -> None:
    names = [ServiceName("galaxy", f"s{n}") for n in range(2000)]
    texts = [service(n.name, f"10.97.{i >> 8}.{i & 255}") + "---\n" for i, n in enumerate(names)]
    (tmp_path / "all.yaml").write_text("".join(texts))
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with complete(tmp_path) as it, asyncio.TaskGroup() as tasks:
        assert all((SOURCE, name) in it.mesh.services for name in names)
        worker = tasks.create_task(work())
        it.write("all.yaml", *texts[:1000], *(t.replace("port: 80", "port: 81") for t in texts[1000:]))
        revision = it.mesh.revision
        await it.until(lambda: it.frontend(names[-1]) == f"{1999 & 255}:81")
        assert it.mesh.revision - revision >= 1000 / 250
        assert turns > 8
        worker.cancel()


async def test_objects_of_all_kinds_stay_when_nothing_changed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("galaxy") + "---\n" + service("web", "10.96.0.1"))
    async with complete(tmp_path) as it:
        before = it.mesh.services.revision_of((SOURCE, WEB))
        it.write("a.yaml", "# moved down\n" + namespace("galaxy"), service("web", "10.96.0.1"))
        await it.read_up_to_here()
        assert it.mesh.services.revision_of((SOURCE, WEB)) == before
        assert it.mesh.namespace("galaxy") == Namespace("galaxy", SOURCE)

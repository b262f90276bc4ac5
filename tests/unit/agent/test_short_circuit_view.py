"""What is said of the short circuit where it cannot be on, and which pairs the metrics name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshd.agent.short_circuit_figures import PAIRS_SHOWN, Figures
from meshd.agent.short_circuit_reading import Reading
from meshd.agent.short_circuit_sums import NOTHING, Ends, Sent
from meshd.agent.short_circuit_view import ShortCircuitView
from meshd.config import Cni, Config
from meshd.config_short_circuit import ShortCircuit as Options
from meshd.dataplane.dataplane import Dataplane
from meshd.dataplane.short_circuit.circuit import Excluded, ShortCircuit
from meshd.kernel.features import Feature
from meshd.model import Address, Namespace, Workload, parse_address
from meshd.model.attachment import CNI
from meshd.model.workload import PodLink
from meshd.state import Mesh

TOLD = "workloads are selected for the short circuit, and stay on TCP"
LACKS = [
    Feature("sockhash", present=True, needed_by="short_circuit", cost="", reason=""),
    Feature(
        "sk_msg_reads_sockets",
        present=False,
        needed_by="short_circuit",
        cost="no short circuit",
        reason="EINVAL",
    ),
    Feature("tcx", present=False, needed_by="pod_network", cost="", reason=""),
]


def config(directory: Path, *, has_pods: bool = True, **options: bool) -> Config:
    cni = Cni(pod_cidrs=("10.1.0.0/24",)) if has_pods else Cni()
    return Config(node_name="n1", state_dir=directory, cni=cni, short_circuit=Options(**options))


def view(settings: Config, mesh: Mesh | None = None, circuit: object = None) -> ShortCircuitView:
    """Of an agent that did not load the short circuit, or has ``circuit``."""
    opened = SimpleNamespace(loaded=SimpleNamespace(maps={}))
    dataplane = SimpleNamespace(
        devices=SimpleNamespace(now=SimpleNamespace(addresses=())),
        netns=SimpleNamespace(node_cookie=1),
        opened=opened,
    )
    return ShortCircuitView(
        settings, mesh or Mesh(), cast("Dataplane", dataplane), cast("ShortCircuit | None", circuit), LACKS
    )


def pod(name: str, cookie: int, selected: bool | None = None) -> Workload:
    link = PodLink(7, cookie, "", "", (parse_address(f"10.1.0.{cookie}"),))
    return Workload("default", name, CNI, "/run/netns/x", links=(link,), short_circuit=selected)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"enabled": False}, "the configuration has it disabled (shortCircuit.enabled)"),
        ({"has_pods": False}, "the configuration has no pod network (cni.podCidrs, podNetwork.enabled)"),
        ({}, "the kernel lacks sk_msg_reads_sockets (EINVAL)"),
    ],
)
def test_why_it_cannot_be_on_is_one_sentence(tmp_path: Path, options: dict[str, bool], reason: str) -> None:
    assert view(config(tmp_path, **options)).reasons() == [reason]


@pytest.mark.parametrize(
    ("default", "of_namespace", "of_pod", "is_told"),
    [
        (False, None, None, False),
        (True, None, None, True),
        (False, True, None, True),
        (True, None, False, False),
        (False, False, True, True),
    ],
)
def test_that_the_kernel_cannot_is_a_problem_only_where_somebody_wants_it(
    tmp_path: Path, default: bool, of_namespace: bool | None, of_pod: bool | None, is_told: bool
) -> None:
    mesh = Mesh()
    mesh.replace(CNI, [pod("one", 11)])
    mesh.replace(
        "kubernetes",
        [
            Namespace("default", "kubernetes", short_circuit=of_namespace),
            Workload("default", "one", "kubernetes", "", short_circuit=of_pod),
        ],
    )
    told = view(config(tmp_path, default=default), mesh).problems()
    expected = f"{TOLD}: the kernel lacks sk_msg_reads_sockets (EINVAL)"
    assert told == ([expected] if is_told else [])


class Circuit(SimpleNamespace):
    """A loaded one whose maps are empty."""

    def __init__(self, **more: Any) -> None:
        intent = SimpleNamespace(node_on=True, cluster_on=True)
        switchboard = SimpleNamespace(is_on=False)
        super().__init__(intent=intent, switchboard=switchboard, refusal="", made=None, **more)

    def excluded(self) -> list[Excluded]:
        return [Excluded(11, "splices", 4711), Excluded(12, "tees", 5), Excluded(1, "splices", 6)]

    def selected_cookies(self) -> set[int]:
        return {11}


def test_who_splices_and_is_not_selected_is_nobodys_business(tmp_path: Path) -> None:
    mesh = Mesh()
    mesh.replace(CNI, [pod("one", 11), pod("two", 12)])
    shown = view(config(tmp_path), mesh, Circuit())
    assert shown.problems() == [
        "connections of default/one stay on TCP, not on the short circuit: its process 4711 splices"
    ]


def test_a_self_test_that_failed_is_a_problem(tmp_path: Path) -> None:
    mesh = Mesh()
    mesh.replace(CNI, [pod("one", 11, selected=True)])
    circuit = Circuit()
    circuit.refusal = "self-test failed: a blocking socket: went on TCP for [], not blocking"
    shown = view(config(tmp_path), mesh, circuit)
    assert shown.reasons() == [circuit.refusal]
    assert shown.problems()[0] == f"{TOLD}: {circuit.refusal}"


async def test_what_is_said_where_it_is_not_loaded_holds_later(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await view(settings).turn(on=False)
    later = await view(settings).state()
    assert (later.node_on, later.cluster_on, later.on) == (False, True, False)


class Names:
    """Names of as many pods as there are addresses."""

    def __init__(self, addresses: list[Address]) -> None:
        self.known = {at: f"default/pod-{number:03}" for number, at in enumerate(addresses)}

    def names(self) -> dict[Address, str]:
        return self.known


def test_metrics_name_so_many_pairs_and_stay_with_them() -> None:
    addresses = [parse_address(f"10.1.{number // 250}.{number % 250}") for number in range(400)]
    reading = Names(addresses)
    figures = Figures(cast("ShortCircuit", None), cast("Reading", reading))

    def pairs(*numbers: int) -> dict[Ends, Sent]:
        return {(addresses[number], addresses[399]): (NOTHING, NOTHING) for number in numbers}

    first = list(figures._pairs(pairs(*range(100, 300))))
    assert len(first) == PAIRS_SHOWN
    # Others come, and those that were shown are, as long as they are there.
    again = list(figures._pairs(pairs(*range(300))))
    assert again == first
    del reading.known[addresses[100]]
    later = list(figures._pairs(pairs(*range(300))))
    # The room of one that is gone is another's.
    assert (later[:-1], len(later), later[-1] in first) == (first[1:], PAIRS_SHOWN, False)

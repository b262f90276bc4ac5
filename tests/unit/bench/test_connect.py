from __future__ import annotations

from meshd.bench.connect import DIRECT, METRICS, Dialled, rows, targets
from meshd.bench.population import population
from meshd.bench.workers import Worker

SERVICES = population(40)
# Nobody dials here: a client that was never started.
NOBODY = Worker.__new__(Worker)


def dialled(path: str, p50: float = 1.0) -> Dialled:
    results = {metric: [p50] * 6 for metric in METRICS}
    return Dialled(path, SERVICES, NOBODY, results)


def test_every_path_dials_the_same_services_in_a_round_and_others_in_the_next() -> None:
    assert targets(dialled("meshd"), 30, seed=1) == targets(dialled("nftables"), 30, seed=1)
    assert targets(dialled("meshd"), 30, seed=1) != targets(dialled("meshd"), 30, seed=2)


def test_the_baseline_dials_backends_of_the_same_population() -> None:
    backends = {backend for service in SERVICES for backend in service.backends}
    direct = targets(dialled(DIRECT), 30, seed=1)
    assert {address for address, _ in direct} <= backends
    assert {port for _, port in direct} == {8080}


def test_ratios_are_to_the_baseline_of_the_same_case_and_the_baseline_has_none() -> None:
    found = [
        each for each in rows([dialled(DIRECT, 20.0), dialled("meshd", 21.0)]) if each.metric == "connect p50"
    ]
    assert [(each.path, each.value, each.ratio) for each in found] == [
        (DIRECT, 20.0, None),
        ("meshd", 21.0, 1.05),
    ]

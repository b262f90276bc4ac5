"""Pods that another network plugin connected."""

from __future__ import annotations

from meshd.kubenode.others import NAMED, pods_of_others, sentence
from meshd.model import Workload, parse_address
from meshd.model.attachment import CNI


def workload(name: str, source: str, *addresses: str) -> Workload:
    return Workload("default", name, source, "", tuple(map(parse_address, addresses)))


def test_pods_with_addresses_that_are_not_ours_are_others() -> None:
    known = [
        workload("ours", CNI, "10.1.0.1", "fd00::1"),
        workload("ours", "kubernetes", "10.1.0.1", "fd00::1"),
        workload("theirs", "kubernetes", "10.9.0.1"),
        workload("recreated", CNI, "10.1.0.2"),
        workload("recreated", "kubernetes", "10.9.0.2"),
        workload("ours-and-going", "kubernetes", "10.1.0.3"),
        workload("not-yet", "kubernetes"),
        workload("chained", "manifests", "10.9.0.3"),
    ]
    ours = {parse_address(text) for text in ("10.1.0.1", "fd00::1", "10.1.0.2", "10.1.0.3")}
    found = pods_of_others(known, "kubernetes", ours.__contains__)
    assert list(map(str, found)) == ["default/recreated", "default/theirs"]


def test_they_are_named_and_the_rest_is_counted() -> None:
    assert sentence([]) == ""
    assert sentence([workload("b", "kubernetes")]).startswith("1 pod of another network plugin")
    many = sentence([workload(str(number), "kubernetes") for number in range(NAMED + 3)])
    assert many.startswith(f"{NAMED + 3} pods")
    assert many.endswith(f"default/{NAMED - 1} and 3 more")

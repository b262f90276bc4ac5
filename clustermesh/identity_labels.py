"""Which labels make a workload who it is to policies: those of its pod that say what it does, its namespace, its cluster.

Two workloads with the same of them are the same to everybody, and share an identity. So labels that every pod or every
rollout has its own of must not count. Which these are, and the names of those that are added, are Cilium's defaults
(`pkg/labelsfilter`, `pkg/k8s/utils`): a peer's policies select by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CLUSTER = "io.cilium.k8s.policy.cluster"
SERVICE_ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
NAMESPACE = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS = "io.cilium.k8s.namespace.labels"

# Not for users to set: with them a pod could say that it is in another namespace.
_OF_CILIUM = "io.cilium.k8s"
_COUNTS = [
    re.compile(re.escape(text))
    for text in (NAMESPACE, NAMESPACE_LABELS, "app.kubernetes.io", CLUSTER, SERVICE_ACCOUNT)
]
_COUNTS_NOT = [
    re.compile(text)
    for text in (
        r"io\.kubernetes",
        r"kubernetes\.io",
        r"statefulset\.kubernetes\.io/pod-name",
        r"apps\.kubernetes\.io/pod-index",
        r"batch\.kubernetes\.io/job-completion-index",
        r"batch\.kubernetes\.io/controller-uid",
        r".*beta\.kubernetes\.io",
        r"k8s\.io",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
        r"topology\.kubernetes\.io",
    )
]

Labels = Iterable[tuple[str, str]]


def identity_labels(
    labels: Labels, cluster: str, namespace: str, namespace_labels: Labels = (), service_account: str = ""
) -> str:
    """The labels that count of a pod of ``namespace``, sorted and each ended by a semicolon: the value of its identity."""
    found = {key: value for key, value in labels if not key.startswith(_OF_CILIUM)}
    found |= {f"{NAMESPACE_LABELS}.{key}": value for key, value in namespace_labels}
    found[NAMESPACE] = namespace
    if service_account:
        found[SERVICE_ACCOUNT] = service_account
    found[CLUSTER] = cluster
    return "".join(f"k8s:{key}={found[key]};" for key in sorted(found) if _counts(key))


def _counts(key: str) -> bool:
    """Whether a label does: the longest rule that lets it count against the shortest that does not."""
    lets = max((_matched(rule, key) for rule in _COUNTS), default=0)
    refuses = min((length for rule in _COUNTS_NOT if (length := _matched(rule, key))), default=0)
    return not refuses or lets > refuses


def _matched(rule: re.Pattern[str], key: str) -> int:
    found = rule.match(key)
    return found.end() if found else 0

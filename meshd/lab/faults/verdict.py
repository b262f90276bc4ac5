"""Whether a fault had its right outcome: what clients, diallers and agents wrote down against what was expected. Pure.

A failover is wrong if somebody was left who could be reached: an agent says that a node does not answer while the
dialler beside it is let in there, or clients have so many answers in a row of others that it is no accident.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from meshd.lab.demo.requests import Request, between, losses
from meshd.lab.faults.expected import Expected, Outlook
from meshd.lab.faults.words import OPEN, Attempt, Fall

# So improbable is a row of answers without a cluster that is in use, before it is called leaving it.
ACCIDENT = 1e-9
# So many answers in a row, of a choice among all backends, and none lost: the switch is over.
QUIET = 80
# Hooks try a backend again that they left alone so long ago (docs/probes.md).
AVOIDED_NS = 10_000_000_000
# Whoever answers sooner is not far away.
LATE_US = 250_000
# What a dialler tries within this time after a change may be of before; what it tries so long before one, of after.
AROUND_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault of a trial: when it began, when all of it was there, and whom it alone makes switch or fall."""

    name: str
    at_ns: int
    in_force_ns: int
    expected: Expected


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault, or several that overlap, as they were done. Times are monotonic nanoseconds, in this order.

    ``in_force_ns``: all were there. ``healing_ns``: the first began to be undone. ``healed_ns``: all were undone.
    ``settled_ns``: every agent said that all is as before. ``problems``: what went wrong in doing it.
    """

    expected: Expected
    injections: Sequence[Injection]
    begun_ns: int
    in_force_ns: int
    healing_ns: int
    healed_ns: int
    settled_ns: int
    ended_ns: int
    problems: tuple[str, ...] = ()

    @property
    def injected_ns(self) -> int:
        return self.injections[0].at_ns


@dataclass(frozen=True, slots=True)
class Written:
    """What was written down during a trial. ``node_of``: the node of each client and backend, by CLUSTER/POD."""

    requests: Sequence[Request]
    attempts: Sequence[Attempt]
    falls: Sequence[Fall]
    node_of: Mapping[str, str]

    def of_node(self, node: str) -> list[Request]:
        return [each for each in self.requests if self.node_of[each.client] == node]


@dataclass(slots=True)
class Verdict:
    """``lost``: requests that should have been answered. ``excused``: lost requests by why nobody could have saved them.

    ``wrong``: wrong failovers, as sentences; ``problems``: what else was not as it must be. ``detection_ms``: from the fault
    to an agent's word that a node does not answer; ``switch_ms``: to the last request that a node's clients lost by it.
    """

    requests: int = 0
    lost: list[Request] = field(default_factory=list)
    excused: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    detection_ms: list[float] = field(default_factory=list)
    switch_ms: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.wrong or self.problems)


def judge(trial: Trial, written: Written) -> Verdict:
    verdict = Verdict(len(written.requests), problems=list(trial.problems))
    for node, outlook in trial.expected.outlooks.items():
        requests = written.of_node(node)
        switched = switched_ns(trial, node, requests)
        _account(verdict, trial, outlook, requests, switched)
        if outlook.must_switch:
            since = max([each.at_ns for each in trial.injections if each.expected.outlooks[node].left])
            verdict.switch_ms.append(max(0.0, (switched - since) / 1e6))
        if not outlook.gone:
            verdict.wrong += left_by_clients(trial, node, outlook, requests)
    verdict.wrong += blamed_by_agents(trial, written)
    verdict.problems += not_as_planned(trial, written.attempts)
    verdict.detection_ms += detections_ms(trial, written.falls)
    if verdict.lost:
        first = min(verdict.lost)
        verdict.problems.append(
            f"{len(verdict.lost)} requests were lost, first one of {first.client}: {first.lost}"
        )
    return verdict


def switched_ns(trial: Trial, node: str, requests: Iterable[Request]) -> int:
    """When the last request of clients of ``node`` began that was lost before `QUIET` in a row were answered; the injection
    if none was lost.
    """
    last, row = trial.injected_ns, 0
    # Others that nobody feels may take longer to begin, and excuse nothing.
    felt = [each.in_force_ns for each in trial.injections if each.expected.outlooks[node].left]
    in_force_ns = max(felt, default=trial.in_force_ns)
    for request in sorted(between(requests, trial.injected_ns, trial.healed_ns), key=_begun):
        if request.lost:
            last, row = request.begun_ns, 0
        elif request.begun_ns >= in_force_ns:
            row += 1
        if row == QUIET:
            break
    return last


def has_switched(in_force_ns: int, requests: Iterable[Request]) -> bool:
    """Whether `QUIET` requests in a row were answered that began after all was in force."""
    row = 0
    for request in sorted(requests, key=_begun):
        if request.begun_ns >= in_force_ns:
            row = 0 if request.lost else row + 1
        if row == QUIET:
            return True
    return False


def _begun(request: Request) -> int:
    return request.begun_ns


def _account(
    verdict: Verdict, trial: Trial, outlook: Outlook, requests: Iterable[Request], switched: int
) -> None:
    for request in losses(requests):
        why = _excuse(trial, outlook, request, switched)
        if why:
            verdict.excused[why] = verdict.excused.get(why, 0) + 1
        else:
            verdict.lost.append(request)


def _excuse(trial: Trial, outlook: Outlook, request: Request, switched: int) -> str:
    """Why nobody could have saved ``request``; empty: it should have been answered."""
    if request.ended_ns < trial.injected_ns or request.begun_ns >= trial.healed_ns:
        return ""
    all_through = {"client_died": outlook.gone, "on_the_way": outlook.lossy, "unsaved": bool(outlook.unsaved)}
    why = next((name for name, holds in all_through.items() if holds), "")
    if why or not outlook.left:
        return why
    if request.begun_ns > switched:
        return (
            "tried_again" if outlook.hooks_only and request.begun_ns > trial.injected_ns + AVOIDED_NS else ""
        )
    return "in_flight" if request.begun_ns < trial.injected_ns else "before_switch"


def row_limit(serving: int, all_backends: int) -> int:
    """So many answers in a row without one of ``serving`` backends out of ``all_backends`` are no accident."""
    return (
        math.ceil(math.log(ACCIDENT) / math.log(1 - serving / all_backends)) if serving < all_backends else 1
    )


def left_by_clients(trial: Trial, node: str, outlook: Outlook, requests: Sequence[Request]) -> list[str]:
    """Clusters that the clients of ``node`` left although they could be reached."""
    every = outlook.serving | outlook.left | outlook.unsaved
    during = between(requests, trial.in_force_ns, trial.healing_ns)
    after = between(requests, trial.settled_ns, trial.ended_ns)
    found = []
    for when, those, usable in (("", during, outlook.serving), (" after all was as before", after, every)):
        for cluster in sorted({pod.partition("/")[0] for pod in usable}):
            serving = sum(pod.startswith(f"{cluster}/") for pod in usable)
            row = _longest_row(those, cluster)
            if row >= row_limit(serving, len(every)):
                found.append(
                    f"clients of {node} left {cluster}, which serves{when}: {row} answers in a row of others"
                )
    return found


def _longest_row(requests: Iterable[Request], cluster: str) -> int:
    longest = row = 0
    for request in sorted(requests, key=_begun):
        if not request.lost:
            row = 0 if request.cluster == cluster else row + 1
            longest = max(longest, row)
    return longest


def blamed_by_agents(trial: Trial, written: Written) -> list[str]:
    """Falls of nodes that could be reached, or that the observer had to doubt."""
    # Who died of a later fault may have said the right thing of an earlier one.
    may_fall = trial.expected.may_fall.union(*(each.expected.may_fall for each in trial.injections))
    found = []
    for fall in written.falls:
        pair = fall.observer, fall.node
        if pair in may_fall and trial.injected_ns <= fall.at_ns < trial.settled_ns:
            continue
        silent_ns = fall.at_ns - fall.silent_ms * 1_000_000
        opened = sum(
            each.outcome == OPEN
            for each in written.attempts
            if (each.node, written.node_of[each.pod]) == pair and silent_ns <= each.begun_ns < fall.at_ns
        )
        found.append(
            f"the agent of {fall.observer} says that {fall.node} does not answer for {fall.silent_ms} ms;"
            f" meanwhile the dialler beside it was let in there {opened} times"
        )
    return found


def not_as_planned(trial: Trial, attempts: Sequence[Attempt]) -> list[str]:
    """Where a dialler found the network other than the fault's plan has it, so the fault was another one."""
    by_pair: dict[tuple[str, str], list[Attempt]] = {}
    for each in attempts:
        # Of an attempt that was under way at a change nobody can say what it should have seen.
        end_ns = each.begun_ns + each.latency_us * 1000
        if trial.in_force_ns + AROUND_NS <= each.begun_ns and end_ns < trial.healing_ns:
            by_pair.setdefault((each.node, each.pod), []).append(each)
    found = []
    for node, outlook in trial.expected.outlooks.items():
        for pod in sorted(outlook.serving | outlook.left | outlook.unsaved):
            tried = by_pair.get((node, pod), [])
            opened = sum(each.outcome == OPEN for each in tried)
            if not tried:
                found.append(f"the dialler of {node} did not try {pod}")
            elif pod in outlook.serving and 2 * opened < len(tried):
                found.append(f"{pod} should be reached from {node}, and accepted {opened} of {len(tried)}")
            elif pod in outlook.late and min(each.latency_us for each in tried) < LATE_US:
                found.append(f"{pod} should be far from {node}, and is not")
            elif pod not in outlook.serving and opened:
                found.append(
                    f"{pod} should not be reached from {node}, and accepted {opened} of {len(tried)}"
                )
    lossy = {node for node, outlook in trial.expected.outlooks.items() if outlook.lossy}
    those = [each for (node, _), tried in by_pair.items() if node in lossy for each in tried]
    if lossy and all(each.outcome == OPEN for each in those):
        found.append(f"of {len(those)} attempts of diallers where packets get lost all were let in")
    return found


def detections_ms(trial: Trial, falls: Iterable[Fall]) -> list[float]:
    """For each pair that must fall and did, from its fault to the observer's word."""
    falls = list(falls)
    found = []
    for pair in sorted(trial.expected.must_fall):
        since = min([each.at_ns for each in trial.injections if pair in each.expected.may_fall])
        said = [f.at_ns for f in falls if (f.observer, f.node) == pair and f.at_ns >= since]
        found += [(min(said) - since) / 1e6] if said else []
    return found

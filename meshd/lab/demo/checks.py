"""Whether a phase showed what it must. Each check is pure and gives back sentences on what was missing; none: it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from meshd.lab.demo.requests import Request, answers, between, losses, percentile


@dataclass(frozen=True, slots=True)
class Seen:
    """One phase as it happened. Times are monotonic nanoseconds.

    ``moments``: what happened when, by name; which names there are depends on the phase.
    ``remarks``: what went wrong in doing it.
    """

    begun_ns: int
    ended_ns: int
    moments: Mapping[str, int]
    requests: Sequence[Request]
    clients: Sequence[str]
    clusters: Sequence[str]
    remarks: tuple[str, ...] = field(default=())

    def since(self, moment: str) -> list[Request]:
        """Requests begun at or after ``moment``, to the end of the phase."""
        return between(self.requests, self.moments[moment], self.ended_ns)

    def during(self, first: str, end: str) -> list[Request]:
        return between(self.requests, self.moments[first], self.moments[end])


Check = Callable[[Seen], list[str]]


@dataclass(frozen=True, slots=True)
class Excused:
    """Lost requests that nobody could have saved: ``in_flight`` when a link was cut, and sent before this could be known."""

    in_flight: Sequence[Request] = ()
    before_switch: Sequence[Request] = ()


Excuses = Callable[[Seen], Excused]
# p99 over the callers, of the milliseconds from the change to the last answer of the old kind; None: nothing switched.
Switch = Callable[[Seen], float | None]


def everybody_got(requests: Iterable[Request], seen: Seen, clusters: Sequence[str], when: str) -> list[str]:
    """Every client was answered by each of ``clusters`` and no other."""
    by_client: dict[str, list[Request]] = {client: [] for client in seen.clients}
    for request in requests:
        by_client[request.client].append(request)
    problems = []
    for client, its in by_client.items():
        got = answers(its)
        problems += [f"{client} got no answer from {c} {when}" for c in clusters if not got[c]]
        problems += [f"{client} got {n} answers from {c} {when}" for c, n in got.items() if c not in clusters]
    return problems


def both_serve(seen: Seen) -> list[str]:
    """Phase 1: both clusters answer every client, over IPv4 and over IPv6."""
    problems = []
    for family in (4, 6):
        of_family = [request for request in seen.requests if request.family == family]
        problems += everybody_got(of_family, seen, seen.clusters, f"over IPv{family}")
    return problems


def left_answers_nothing(leaving: str) -> Check:
    """Phase 2: after the backends of cluster ``leaving`` had gone, the others answered everything."""

    def check(seen: Seen) -> list[str]:
        staying = [cluster for cluster in seen.clusters if cluster != leaving]
        return everybody_got(seen.since("gone"), seen, staying, f"after the backends of {leaving} had gone")

    return check


def both_again(seen: Seen) -> list[str]:
    """Phase 3: after every node knew the new backends, both clusters answer."""
    return everybody_got(seen.since("settled"), seen, seen.clusters, "after the backends were back")


def nothing_changes(down: str, what: str) -> Check:
    """Phases 4 and 5: both clusters answer while ``what`` is down (from moment ``down`` to ``started``) and after."""

    def check(seen: Seen) -> list[str]:
        without = everybody_got(seen.during(down, "started"), seen, seen.clusters, f"while {what} was down")
        return without + everybody_got(seen.since("settled"), seen, seen.clusters, f"after {what} was back")

    return check


# New connections are elsewhere within this time of a cut.
SWITCH_LIMIT_NS = 1_000_000_000
# Of two clusters with as many backends, so many answers in a row of one only are no accident.
IN_A_ROW = 40


def nobody_moves(down: str, what: str) -> Check:
    """The same as `nothing_changes`, and no caller left a cluster even for a moment."""

    def check(seen: Seen) -> list[str]:
        rows: dict[tuple[str, int], tuple[str, int]] = {}
        moved = set()
        for request in sorted(seen.during(down, "settled"), key=lambda each: each.begun_ns):
            last, count = rows.get(request.stream, ("", 0))
            rows[request.stream] = (request.cluster, count + 1 if request.cluster == last else 1)
            if rows[request.stream][1] == IN_A_ROW:
                moved.add(request.stream)
        moves = [
            f"{client} got {IN_A_ROW} answers in a row from one cluster only over IPv{family} while {what} was down"
            for client, family in sorted(moved)
        ]
        return nothing_changes(down, what)(seen) + moves

    return check


def each_serves_itself(seen: Seen) -> list[str]:
    """The link between clusters is cut (moment ``cut`` to ``healed``): a second later each has answers of its own only."""
    problems = []
    if not cut_losses(seen).before_switch:
        problems.append("no request failed at the cut, so nobody used the link")
    late = until_last_loss_begun(seen)
    if late is not None and late > SWITCH_LIMIT_NS / 1e6:
        problems.append(
            f"connections moved {late:g} ms after the cut, {SWITCH_LIMIT_NS // 10**6} ms are allowed"
        )
    after = between(seen.requests, seen.moments["cut"] + SWITCH_LIMIT_NS, seen.moments["healed"])
    for cluster in seen.clusters:
        inside = [client for client in seen.clients if client.startswith(f"{cluster}/")]
        own = [request for request in after if request.client in inside]
        problems += everybody_got(own, replace(seen, clients=inside), [cluster], "while the link was cut")
    return problems + everybody_got(seen.since("settled"), seen, seen.clusters, "after the link was back")


def cut_losses(seen: Seen) -> Excused:
    """Of the requests that were lost: those under way at the cut, and those begun within the time that is allowed."""
    cut_ns = seen.moments["cut"]
    lost = losses(seen.requests)
    return Excused(
        [request for request in lost if request.begun_ns < cut_ns],
        [request for request in lost if cut_ns <= request.begun_ns < cut_ns + SWITCH_LIMIT_NS],
    )


def until_last_loss_begun(seen: Seen) -> float | None:
    """From moment ``cut`` to the beginning of the last request that was lost; 0 for a caller that lost none."""
    cut_ns = seen.moments["cut"]
    last = {request.stream: 0 for request in seen.requests}
    for request in losses(seen.requests):
        last[request.stream] = max(last[request.stream], request.begun_ns - cut_ns)
    return _p99_ms(last.values())


def nobody_is_excused(_seen: Seen) -> Excused:
    """Where nothing may be lost."""
    return Excused()


def failures_end(seen: Seen) -> list[str]:
    """Phase 6: some requests fail, none that began after every node knew of the removal."""
    problems = [] if losses(seen.requests) else ["no request failed, so the killed backend was not in use"]
    late = losses(seen.since("settled"))
    if late:
        problems.append(f"{len(late)} requests failed that began after its removal was known")
    return problems + everybody_got(seen.since("settled"), seen, seen.clusters, "after its removal was known")


def until_last_answer_of(cluster: str) -> Switch:
    """From moment ``change`` to the last answer of ``cluster``; 0 for a caller that got none any more."""

    def switch(seen: Seen) -> float | None:
        last = {request.stream: 0 for request in seen.requests}
        for stream, after_ns in _after_change(seen, (r for r in seen.requests if r.cluster == cluster)):
            last[stream] = max(last[stream], after_ns)
        return _p99_ms(last.values())

    return switch


def until_first_answer_of(cluster: str) -> Switch:
    """From moment ``change`` to the first answer of ``cluster``: until then all answers were of the old kind."""

    def switch(seen: Seen) -> float | None:
        first: dict[tuple[str, int], int] = {}
        for stream, after_ns in _after_change(seen, (r for r in seen.requests if r.cluster == cluster)):
            first[stream] = min(first.get(stream, after_ns), after_ns)
        return _p99_ms(first.values())

    return switch


def until_last_loss(seen: Seen) -> float | None:
    """From moment ``change`` to the end of the last request that was lost, of callers that lost one."""
    last: dict[tuple[str, int], int] = {}
    for stream, after_ns in _after_change(seen, losses(seen.requests)):
        last[stream] = max(last.get(stream, 0), after_ns)
    return _p99_ms(last.values())


def no_switch(_seen: Seen) -> float | None:
    return None


def _after_change(seen: Seen, requests: Iterable[Request]) -> list[tuple[tuple[str, int], int]]:
    change = seen.moments.get("change", seen.ended_ns)
    return [(r.stream, r.ended_ns - change) for r in requests if r.ended_ns >= change]


def _p99_ms(each_ns: Iterable[int]) -> float | None:
    value = percentile([ns / 1e6 for ns in each_ns], 0.99)
    return None if value is None else round(value, 1)


@dataclass(frozen=True, slots=True)
class PodCounts:
    """What a backend counted itself (``workloads/rebel_base.py``)."""

    begun: int
    answered: int


def counts_agree(requests: Sequence[Request], counted: Mapping[str, PodCounts]) -> list[str]:
    """Clients and backends counted the same complete answers; ``counted``: by CLUSTER/POD.

    A backend may have answered a request that its client counts as lost (the deadline), and a killed one may have died
    between handing an answer over and counting it; no other difference is allowed.
    """
    got = Counter(f"{request.cluster}/{request.pod}" for request in requests if not request.lost)
    problems = [
        f"clients got {n} answers from {pod}, which does not exist"
        for pod, n in got.items()
        if pod not in counted
    ]
    unclaimed = 0
    for pod, counts in counted.items():
        if got[pod] > counts.begun:
            problems.append(f"clients got {got[pod]} answers from {pod}, which gave {counts.begun}")
        unclaimed += max(0, counts.answered - got[pod])
    lost = len(losses(requests))
    if unclaimed > lost:
        problems.append(
            f"backends gave {unclaimed} answers that no client got, but {lost} requests were lost"
        )
    return problems

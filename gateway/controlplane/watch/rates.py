"""How many requests a second, how were they answered, how slow were they, lately?

Counters grow; people want to know about the last seconds. `Window` adds up what was counted in
each of those, and forgets it afterwards. Pure: the clock is an argument.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.controlplane.watch.tallies import Change
from gateway.core.errors import KINDS
from gateway.telemetry.buckets import quantiles
from gateway.telemetry.metrics import REQUEST, REQUESTS
from gateway.telemetry.series import TOTAL, Labels

LASTS_S = 10.0
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
ANSWERS = ("1xx", "2xx", "3xx", "4xx", "499", "5xx", "refused")
"""How requests end: by status, but apart who left before an answer came (499) and whom the
gateway itself turned away with a 503 or 429 (refused)."""

REFUSALS = frozenset(code for code, kind in KINDS.items() if kind.status in (429, 503))
DIGITS = 3  # of a rate or a time that mean anything

Of = tuple[str, str]
"""A `route` or a `backend`, and its name, or the `part` of both; or the GATEWAY."""

GATEWAY: Of = ("gateway", "")
"""All routes together, and what met none."""

What = int | str
"""A bucket of times, one of ANSWERS, or the reason why requests were not answered."""

Sums = dict[Of, dict[What, int]]


class Window:
    """What was counted in the last seconds."""

    def __init__(self) -> None:
        self._slots: deque[tuple[float, Sums]] = deque()
        self._open: Sums = {}
        self._places: dict[Labels, tuple[dict[What, int], ...]] = {}  # in `_open`
        self._sums: Sums = {}
        self._due: list[tuple[Sums, int]] = []  # is added to the sums once somebody asks
        self._since: float | None = None

    def note(self, changes: Iterable[Change]) -> None:
        """Takes in what was counted just now."""
        for change in changes:
            metric, labels, key = change.metric, change.labels, change.key
            if metric == REQUEST:
                if isinstance(key, int) and key != TOTAL:
                    self._add(labels, key, int(change.more))
            elif metric == REQUESTS and isinstance(key, tuple):
                _, code, reason = key
                self._add(labels, answer(code, reason), int(change.more))
                if reason:
                    self._add(labels, reason, int(change.more))

    def _add(self, labels: Labels, what: What, more: int) -> None:
        for counts in self._places.get(labels) or self._placed(labels):
            counts[what] = counts.get(what, 0) + more

    def _placed(self, labels: Labels) -> tuple[dict[What, int], ...]:
        """Where what has these labels is counted until the next beat."""
        route, backend, *_ = labels
        ofs = ("route", route), ("backend", backend), ("part", part(route, backend)), GATEWAY
        found = self._places[labels] = tuple([self._open.setdefault(of, {}) for of in ofs])
        return found

    def beat(self, now: float) -> Sums:
        """What was noted since the last beat was counted by `now`; it is the answer."""
        counted, self._open, self._places = self._open, {}, {}
        if self._since is None:  # what was counted before anybody looked is of no second
            self._since = now
            return {}
        self._due.append((counted, 1))
        self._slots.append((now, counted))
        while len(self._slots) > 1 and now - self._slots[0][0] >= LASTS_S:
            self._since, old = self._slots.popleft()
            self._due.append((old, -1))
        if len(self._due) > 2 * len(self._slots):  # sooner added up anew
            self._sums, self._due = {}, [(each, 1) for _, each in self._slots]
        return counted

    def _summed(self) -> Sums:
        """What was counted in all seconds that are kept: added up now, for that costs as much as
        counting, and mostly nobody asks."""
        for counted, sign in self._due:
            _add_up(self._sums, counted, sign)
        self._due = []
        return self._sums

    def of(self, kind: str, name: str) -> dict[str, Any]:
        """`requests_per_s`, `errors_per_s`, `answers_per_s` and `latency_ms` of one backend or
        route, of the part that a backend has of a route, or of the gateway."""
        return measured(self._summed().get((kind, name), {}), self._lasted_s)

    def per_s(self, kind: str, name: str) -> float:
        """Requests a second of one of them, however they were answered."""
        counts = self._summed().get((kind, name), {})
        return self._per_s(sum(counts.get(each, 0) for each in ANSWERS))

    def reasons(self, kind: str, name: str) -> dict[str, float]:
        """Requests a second that no instance answered in full, by why."""
        counts = self._summed().get((kind, name), {})
        return {
            what: self._per_s(count)
            for what, count in counts.items()
            if isinstance(what, str) and what not in ANSWERS
        }

    def was_answered(self, backend: str, since: float) -> bool:
        """Whether an instance of `backend` answered any request that was counted since then, or
        by the last beat."""
        for beats, (at, counted) in enumerate(reversed(self._slots)):
            if beats and at < since:
                break
            if any(isinstance(what, int) for what in counted.get(("backend", backend), {})):
                return True
        return False

    @property
    def _lasted_s(self) -> float:
        return 0.0 if not self._slots or self._since is None else self._slots[-1][0] - self._since

    def _per_s(self, count: int) -> float:
        return per_s(count, self._lasted_s)


def part(route: str, backend: str) -> str:
    """The name of what `backend` has of `route`."""
    return f"{route}/{backend}"


def measured(counts: Mapping[What, int], lasted_s: float) -> dict[str, Any]:
    """`requests_per_s`, `errors_per_s`, `answers_per_s` and `latency_ms` of what was counted in so
    many seconds."""
    times = {what: count for what, count in counts.items() if isinstance(what, int)}
    found = quantiles(times, list(QUANTILES.values()))
    return {
        "requests_per_s": per_s(sum(counts.get(each, 0) for each in ANSWERS), lasted_s),
        "errors_per_s": per_s(counts.get("5xx", 0) + counts.get("refused", 0), lasted_s),
        "answers_per_s": {each: per_s(counts.get(each, 0), lasted_s) for each in ANSWERS},
        "latency_ms": {name: known(1000 * at) for name, at in zip(QUANTILES, found, strict=False)},
    }


def per_s(count: int, lasted_s: float) -> float:
    """`count` in so many seconds as a rate; 0 where no time has passed."""
    return round(max(0, count) / lasted_s, 3) if lasted_s > 0 else 0.0


def answer(code: str, reason: str) -> str:
    """Which of ANSWERS a request was."""
    if reason in REFUSALS and code in ("429", "503"):  # a stream that is cut has its own code
        return "refused"
    return code if code == "499" else f"{code[:1]}xx"


def known(value: float) -> float:
    """`value` with the digits that are known of it."""
    return float(f"{value:.{DIGITS}g}")


def _add_up(sums: Sums, more: Sums, sign: int) -> None:
    for of, counts in more.items():
        into = sums.setdefault(of, {})
        for what, count in counts.items():
            total = into.get(what, 0) + sign * count
            if total:
                into[what] = total
            else:
                into.pop(what, None)
        if not into:
            del sums[of]

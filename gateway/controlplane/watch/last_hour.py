"""How many requests were there in the last hour, how were they answered, and how slow were they?

A ring of steps of ten seconds, each with all that was counted in it: by kind of answer, and by the
bucket of its time. Buckets add up, so the percentiles of any number of steps are as exact as those
of one. What is kept is bounded in time, in names and in bytes; where that is too little the hour
is a shorter one. Pure: the clock is an argument. It knows of no file: what a control process leaves
to its successor is said in `watch.last_hour_file`.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from itertools import groupby, islice
from typing import Any

from gateway.controlplane.watch.rates import ANSWERS, QUANTILES, Of, Sums, What, measured

STEP_S = 10.0
KEPT_S = 3600.0
MAX_BYTES = 32 << 20
MAX_NAMES = 1000
"""So many routes, and so many backends, are kept of one step: the busiest."""

_KINDS = ("gateway", "route", "backend")
_ENTRY = 200  # bytes of an entry beside its counts: its name, its place in the mapping
_FIRST_ANSWER = 0xFF00  # above every bucket
_MAX_COUNT = 0xFFFFFFFF

Counts = Mapping[What, int]


@dataclass(frozen=True, slots=True)
class Step:
    """What was counted from `since` to `until`, in monotonic seconds; packed. Where nobody looked
    for a while `lasted_s` is less than lies between."""

    since: float
    until: float
    lasted_s: float
    counts: Sequence[Mapping[Of, bytes]]
    size: int = 0

    @classmethod
    def made(cls, since: float, until: float, found: Mapping[Of, bytes]) -> "Step":
        """A step of what is packed, with about as many bytes as it takes."""
        size = sum(map(len, found.values())) + _ENTRY * (1 + len(found))
        return cls(since, until, until - since, (found,), size)

    def of(self, of: Of) -> dict[What, int]:
        """The counts of a route, a backend or the GATEWAY."""
        found: dict[What, int] = {}
        for each in self.counts:
            for what, count in _unpacked(each.get(of, b"")):
                found[what] = found.get(what, 0) + count
        return found


class LastHour:
    """What `add` was told in the last hour."""

    def __init__(self, *, max_bytes: int = MAX_BYTES, max_names: int = MAX_NAMES) -> None:
        self._max_bytes, self._max_names = max_bytes, max_names
        self._steps: deque[Step] = deque()
        self._open: dict[Of, dict[What, int]] = {}
        self._since: float | None = None
        self._until = 0.0
        self.bytes = 0
        """About how many are kept."""
        self.closed = 0
        """How many steps there were in all."""
        self.additions = 0
        """How often anything was counted."""

    def add(self, now: float, counted: Sums) -> None:
        """Takes in what was `counted` since the last time, until `now`."""
        if self._since is None:  # what came before is of no known time
            self._since = now
            return
        self.additions += 1 if counted else 0
        for of, counts in counted.items():
            if of[0] in _KINDS:
                _add(self._open.setdefault(of, {}), counts)
        self._until = now
        if now // STEP_S > self._since // STEP_S:
            self._close(_packed_step(self._since, now, self._open, self._max_names))
            self._open, self._since = {}, now

    def take_up(self, steps: Iterable[Step], now: float) -> None:
        """Goes on after the `steps` of a process before, the oldest first. What is later than
        `now` is of another clock."""
        for step in steps:
            if step.until <= now:
                self._close(step)

    def since(self, closed: int) -> list[Step]:
        """The steps after the first `closed` ones, as far as they are kept."""
        first = max(0, len(self._steps) - (self.closed - closed))
        return list(islice(self._steps, first, None))

    def begun(self) -> Callable[[], Step] | None:
        """What makes a step, in any thread, of what was counted since the last one and of which
        there will be more; None: nothing was."""
        if self._since is None or not self._open:
            return None
        counts = {of: dict(each) for of, each in self._open.items()}
        return partial(_packed_step, self._since, self._until, counts, self._max_names)

    def steps(self, step_s: float = STEP_S, *, last_s: float = KEPT_S) -> list[Step]:
        """The steps of the last `last_s` seconds, the oldest first, put together to such of
        `step_s`, a multiple of STEP_S: whole ones, but for the first and the last."""
        if not self._steps:
            return []
        since = self._steps[-1].until - last_s
        kept = [step for step in self._steps if step.since >= since]
        groups = groupby(kept, key=lambda step: step.since // step_s)
        return [_together(list(group)) for _, group in groups]

    def _close(self, step: Step) -> None:
        self._steps.append(step)
        self.closed += 1
        self.bytes += step.size
        while self._steps and (
            self.bytes > self._max_bytes or step.until - self._steps[0].since > KEPT_S
        ):
            self.bytes -= self._steps.popleft().size


def columns(steps: Sequence[Step], of: Of) -> dict[str, Any]:
    """`requests_per_s`, `answers_per_s` by those kinds that there were, and `latency_ms` by
    percentile (None: nothing was timed), each with one value for each of `steps`."""
    each = [measured(step.of(of), step.lasted_s) for step in steps]
    kinds = [kind for kind in ANSWERS if any(one["answers_per_s"][kind] for one in each)]
    return {
        "requests_per_s": [one["requests_per_s"] for one in each],
        "answers_per_s": {kind: [one["answers_per_s"][kind] for one in each] for kind in kinds},
        "latency_ms": {
            point: [one["latency_ms"].get(point) for one in each] for point in QUANTILES
        },
    }


def _together(steps: Sequence[Step]) -> Step:
    counts = tuple(each for step in steps for each in step.counts)
    lasted_s = sum(step.lasted_s for step in steps)
    return Step(steps[0].since, steps[-1].until, lasted_s, counts)


def _packed_step(since: float, until: float, counts: Mapping[Of, Counts], most: int) -> Step:
    """The step of `counts`, with the `most` busiest names of each kind."""
    found = {}
    for kind in _KINDS:
        own = [each for each in counts.items() if each[0][0] == kind]
        for of, each in nlargest(most, own, key=lambda each: _requests(each[1])):
            if kept := _packed(each):
                found[of] = kept
    return Step.made(since, until, found)


def _add(into: dict[What, int], more: Counts) -> None:
    for what, count in more.items():
        into[what] = into.get(what, 0) + count


def _requests(counts: Counts) -> int:
    return sum(counts.get(kind, 0) for kind in ANSWERS)


def _packed(counts: Counts) -> bytes:
    """Two arrays, one after the other: what, and how many. What is negative was moved to another
    name, and why a request failed is not kept."""
    whats, numbers = array("H"), array("I")
    for what, count in counts.items():
        if count > 0 and (isinstance(what, int) or what in ANSWERS):
            bucket = what if isinstance(what, int) else _FIRST_ANSWER + ANSWERS.index(what)
            whats.append(bucket)
            numbers.append(min(count, _MAX_COUNT))
    return whats.tobytes() + numbers.tobytes()


def _unpacked(packed: bytes) -> Iterator[tuple[What, int]]:
    count = len(packed) // (array("H").itemsize + array("I").itemsize)
    whats, numbers = array("H"), array("I")
    whats.frombytes(packed[: count * whats.itemsize])
    numbers.frombytes(packed[count * whats.itemsize :])
    for what, number in zip(whats, numbers, strict=True):
        yield (what if what < _FIRST_ANSWER else ANSWERS[what - _FIRST_ANSWER]), number

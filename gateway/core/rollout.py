"""What does a rollout do next?

A plan of steps, each a share of a route, and what must be so before the next one. All that a
rollout can become is in one table, (state, signal) → state; a pair that is not there raises. A step
is passed by time, by requests and by guards that are at ease; how it is made an edit, who counts
and where it is kept is asked elsewhere. No clock, no chance, no I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd, log
from typing import Literal

from gateway.core.entries import MAX_WEIGHT
from gateway.core.judging import evidence

State = Literal["running", "paused", "waiting", "done", "rolled_back", "aborted"]
Signal = Literal[
    "next", "ask", "finish", "fail", "hold", "pause", "resume", "approve", "promote", "abort"
]
Verdict = Literal["no_data", "well", "failing", "failed"]
OnFail = Literal["rollback", "hold", "warn"]

SIGNALS: dict[Signal, str] = {
    "next": "the step was held long enough, had enough requests, and no guard objects",
    "ask": "the same, and the step asks for approval before the next one",
    "finish": "the last step is passed, approved or promoted",
    "fail": "a guard with `on_fail: rollback` failed, or the canary has no healthy instance",
    "hold": "a guard with `on_fail: hold` failed",
    "pause": "an operator stops the steps",
    "resume": "an operator lets them go on, whatever a guard with `on_fail: hold` said",
    "approve": "an operator approves of the next step",
    "promote": "an operator goes on to the next step, whatever this one still lacks",
    "abort": "an operator goes back to the weights of the start",
}
TABLE: dict[tuple[State, Signal], State] = {
    ("running", "next"): "running",
    ("running", "ask"): "waiting",
    ("running", "finish"): "done",
    ("running", "fail"): "rolled_back",
    ("running", "hold"): "paused",
    ("running", "pause"): "paused",
    ("running", "promote"): "running",
    ("running", "abort"): "aborted",
    ("paused", "finish"): "done",
    ("paused", "fail"): "rolled_back",
    ("paused", "hold"): "paused",
    ("paused", "resume"): "running",
    ("paused", "promote"): "running",
    ("paused", "abort"): "aborted",
    ("waiting", "finish"): "done",
    ("waiting", "fail"): "rolled_back",
    ("waiting", "hold"): "paused",
    ("waiting", "pause"): "paused",
    ("waiting", "approve"): "running",
    ("waiting", "promote"): "running",
    ("waiting", "abort"): "aborted",
}
STATES: dict[State, str] = {
    "running": "takes its steps",
    "paused": "keeps its share until it is resumed",
    "waiting": "keeps its share until the next step is approved of",
    "done": "passed its last step",
    "rolled_back": "went back to the weights of its start by itself",
    "aborted": "went back to the weights of its start by command, or lost its route",
}
LIVE: frozenset[State] = frozenset({"running", "paused", "waiting"})
"""The states in which the split is the rollout's; the others are its end."""
AHEAD: frozenset[Signal] = frozenset({"next", "approve", "promote"})
"""The signals that lead to the next step, or at the last one are `finish`."""
BACK: frozenset[State] = frozenset({"rolled_back", "aborted"})


MORE_REFUSED = 0.05
"""So much larger than the others' the part may be that a canary refuses: by chance it is larger
now and then, and one that was short of replicas for a minute is to go on some time."""


class NotNow(ValueError):
    """A signal that means nothing in this state; nothing changed."""


def after(state: State, signal: Signal) -> State:
    """The state that `signal` leads to; NotNow where it leads nowhere."""
    found = TABLE.get((state, signal))
    if found is None:
        raise NotNow(f"a rollout that is {state.replace('_', ' ')} cannot {signal}")
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the route, in percent, and what is needed before the next one."""

    percent: Fraction
    hold_s: float = 120.0
    min_requests: int = 100
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """A rule that acts on evidence: it fails when that reaches 1/`alpha`. What else it takes is
    its kind's: `slower_than` of latency, `field` (a JSON pointer) of predictions, `at_least` (the
    part of mirrored pairs that agree) of agreement."""

    name: str
    alpha: float = 0.01
    on_fail: OnFail = "rollback"
    slower_than: float = 1.2
    field: str = ""
    at_least: float = 0.98

    @property
    def threshold(self) -> float:
        return 1.0 / self.alpha


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, all of it. `steps` rise and are not empty."""

    to: str
    steps: tuple[Step, ...]
    guards: tuple[Guard, ...]
    warmup: int = 20
    on_done: Literal["keep", "remove_old"] = "keep"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a guard makes of what was counted: events of requests, of either arm, and which event
    it is where there are several (`what`)."""

    verdict: Verdict
    log_evidence: float
    canary: tuple[int, int]
    stable: tuple[int, int]
    what: str = ""


def judged(
    guard: Guard,
    log_e: float,
    canary: tuple[int, int],
    stable: tuple[int, int],
    has_failed: bool = False,
) -> Judged:
    """The verdict of `guard`. Once it has failed it stays so: evidence counts at every look.

    Halfway to the threshold, as logarithms go, it is failing: no reason to go back, and none to
    go on.
    """
    verdict: Verdict = "well"
    if has_failed or log_e >= -log(guard.alpha):
        verdict = "failed"
    elif not canary[1]:
        verdict = "no_data"
    elif log_e >= -log(guard.alpha) / 2:
        verdict = "failing"
    return Judged(verdict, log_e, canary, stable)


def signal_of(guards: Sequence[tuple[Guard, Judged]], accepted: frozenset[str]) -> Signal | None:
    """What failed guards ask for; of those in `accepted` an operator said to go on."""
    failed = {
        guard.on_fail
        for guard, found in guards
        if found.verdict == "failed" and guard.name not in accepted
    }
    if "rollback" in failed:
        return "fail"
    return "hold" if "hold" in failed else None


def passed(
    plan: Plan,
    step: int,
    held_s: float,
    requests: int,
    guards: Sequence[tuple[Guard, Judged]],
    accepted: frozenset[str] = frozenset(),
    is_refusing: bool = False,
) -> Signal | None:
    """What comes after step number `step` (from 0), held so long and with so many `requests` of
    the canary judged; None while it is not passed. What is not known is waited for, and one that
    `is_refusing` what others take gets no more."""
    now = plan.steps[step]
    if held_s < now.hold_s or requests < now.min_requests or is_refusing:
        return None
    for guard, found in guards:
        if guard.on_fail == "warn" or guard.name in accepted:
            continue
        if found.verdict in ("no_data", "failing"):
            return None
    if now.approval:
        return "ask"
    return "next" if step + 1 < len(plan.steps) else "finish"


def refuses_more(canary: tuple[int, int], others: tuple[int, int]) -> bool:
    """Whether the canary refused a larger part of its requests as busy than the others of theirs;
    both are (refused, requests) of the same time. How it would have answered is not known then."""
    mine, theirs = (refused / max(requests, 1) for refused, requests in (canary, others))
    return mine > theirs + MORE_REFUSED


def weights_at(start: Mapping[str, int], to: str, percent: Fraction) -> dict[str, int]:
    """The split in which `to` has `percent` of the route and the others of `start` keep their
    proportion in the rest: it sums to 100, or to a multiple of it, where whole numbers can."""
    others = {name: weight for name, weight in start.items() if name != to}
    total = sum(others.values())
    shares = {
        name: percent / 100 if name == to else (1 - percent / 100) * Fraction(others[name], total)
        for name in start
    }
    scale = reduce(lambda a, b: a * b // gcd(a, b), (s.denominator for s in shares.values()), 100)
    scale = min(scale, MAX_WEIGHT)
    # Nothing that has a share loses it by rounding.
    return {name: max(round(s * scale), 1 if s else 0) for name, s in shares.items()}


def sentence(
    guard: Guard,
    found: Judged,
    share: Fraction | float,
    acted: str = "",
    lacks: str = "no requests of the canary yet",
) -> str:
    """What a guard found, for a person: the counts, the share, the evidence and what came of it, or
    what it `lacks` to find something."""
    if found.verdict == "no_data":
        return f"{guard.name}: {lacks}"
    e = evidence(found.log_evidence)
    mark = "≥" if found.verdict == "failed" and e >= guard.threshold else "of"
    counts = (
        f"{found.canary[0]:,} of {found.canary[1]:,} against"
        f" {found.stable[0]:,} of {found.stable[1]:,} at {float(share):g} %"
    )
    end = f", {acted}" if acted else ""
    name = f"{guard.name}: {found.what}" if found.what else guard.name
    return f"{name}: {counts}: E = {_rounded(e)} {mark} {guard.threshold:g}{end}"


def _rounded(value: float) -> str:
    return f"{value:.3g}" if value < 1e6 else f"{value:.0e}"

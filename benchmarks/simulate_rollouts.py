"""How often does a rollout stop a canary that is as good, and how soon one that is worse?

Simulated requests are split by the code of `gateway.core.splitting` and judged by that of
`gateway.core.judging`, looked at after every one of them. A/A: both arms are alike, for many kinds
of traffic; then any alarm is false. Power: the canary is worse; counted are its requests until the
alarm.

    python -m benchmarks.simulate_rollouts [RUNS]
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from gateway.core.judging import OTHER, WORSE, part_of
from gateway.core.splitting import TICKETS, Spread, sticky_backend

ALPHA = 0.01
STEPS = (0.01, 0.05, 0.25, 0.50)
AT_EACH = 2000
INTERVAL = 500  # requests after which a latency threshold is learned anew
PERIODS = (1, 13, 34, 55, 89, 100, 144)

Flags = np.ndarray
Chance = np.random.Generator
Run = Callable[[Chance], int | bool | None]


def draws(chance: Chance, shares: Flags) -> Flags:
    """Which of the requests go to the canary, by tickets; `shares` are those in force."""
    spread = Spread(lambda: int(chance.integers(0, TICKETS, dtype=np.uint64)))
    tickets = np.fromiter((spread.next() for _ in shares), np.float64, len(shares))
    return np.asarray(tickets < shares * TICKETS)


def steps(at_each: int = AT_EACH) -> Flags:
    """The share in force of each request of a whole rollout."""
    return np.repeat(STEPS, at_each)


def running(arm: Flags, events: Flags, shares: Flags, ratios: tuple[float, ...] = WORSE) -> Flags:
    """The logarithm of the evidence after each request."""
    at = np.flatnonzero(events)
    canary, share = arm[at], shares[at]
    logs = np.array(
        [np.cumsum(canary * math.log(ratio) - np.log1p(share * (ratio - 1.0))) for ratio in ratios]
    )
    if not len(at):
        return np.zeros(len(events))
    high = logs.max(axis=0)
    mean = high + np.log(np.exp(logs - high).mean(axis=0))
    steps_to = np.cumsum(events) - 1
    return np.where(steps_to >= 0, mean[np.maximum(steps_to, 0)], 0.0)


def alarm(arm: Flags, events: Flags, shares: Flags) -> int | None:
    """The request of the canary, counted from 1, at which the guard fails; None: never."""
    over = np.flatnonzero(running(arm, events, shares) >= -math.log(ALPHA))
    return int(arm[: over[0] + 1].sum()) if len(over) else None


# -- traffic that knows no arm: A/A


def steadily(chance: Chance, count: int) -> Flags:
    """1 % of the requests fail."""
    return chance.random(count) < 0.01


def often(chance: Chance, count: int) -> Flags:
    """30 % of the requests fail."""
    return chance.random(count) < 0.3


def every(period: int) -> Callable[[Chance, int], Flags]:
    """Each `period`-th request fails, from a random one on."""

    def events(chance: Chance, count: int) -> Flags:
        return (np.arange(count) + int(chance.integers(period))) % period == 0

    return events


def in_bursts(chance: Chance, count: int) -> Flags:
    """Now and then half of fifty requests in a row fail, and else 1 in 1,000."""
    rates = np.full(count, 0.001)
    for start in chance.integers(0, count, count // 1000):
        rates[start : start + 50] = 0.5
    return chance.random(count) < rates


def in_a_ramp(chance: Chance, count: int) -> Flags:
    """From no failures to 10 % of all."""
    return chance.random(count) < np.linspace(0.0, 0.1, count)


SHAPES: dict[str, Callable[[Chance, int], Flags]] = {
    "1 % of requests": steadily,
    "30 % of requests": often,
    **{f"every {n}{'st' if n == 1 else 'th'} request": every(n) for n in PERIODS},
    "in bursts": in_bursts,
    "in a ramp from 0 to 10 %": in_a_ramp,
}


def errors_alike(chance: Chance, shape: Callable[[Chance, int], Flags], at_each: int) -> bool:
    """Whether errors of that shape, which know no arm, make a false alarm."""
    shares = steps(at_each)
    return alarm(draws(chance, shares), shape(chance, len(shares)), shares) is not None


def sticky_alike(chance: Chance, once_per_step: bool = False) -> bool:
    """Whether users of whom some fail all the time, each on the arm of its key, make one. A key
    counts once; or, as a comparison, once per step."""
    shares = steps(AT_EACH)
    users = (chance.pareto(1.2, len(shares)) * 20).astype(int) % 3000
    salt = int(chance.integers(1 << 60))
    bad = {user for user in range(3000) if chance.random() < 0.02}
    met: set[tuple[int, float]] = set()
    arm, events = np.zeros(len(shares), bool), np.zeros(len(shares), bool)
    for n, (user, share) in enumerate(zip(users, shares, strict=True)):
        mark = (int(user), float(share) if once_per_step else 0.0)
        if user in bad and mark not in met:
            met.add(mark)
            events[n] = True
            weights = [("old", round(100 * (1 - share))), ("new", round(100 * share))]
            arm[n] = sticky_backend("r", b"%d:%d" % (salt, user), weights) == "new"
    return alarm(arm, events, shares) is not None


def slow(arm: Flags, seconds: Flags) -> Flags:
    """Which answers are slow: by the 90 % point of the other arm in the interval before."""
    events = np.zeros(len(arm), bool)
    for start in range(INTERVAL, len(arm), INTERVAL):
        before = slice(start - INTERVAL, start)
        stable = seconds[before][~arm[before]]
        if len(stable) >= 50:
            now = slice(start, start + INTERVAL)
            events[now] = seconds[now] > 1.2 * np.quantile(stable, 0.9)
    return events


def times(chance: Chance, kind: str, count: int) -> Flags:
    """Seconds of `count` answers of one model."""
    found = np.asarray(0.02 * chance.lognormal(0.0, 0.4, count))
    if kind == "every 89th a long one":
        found[np.arange(count) % 89 == int(chance.integers(89))] *= 10
    if kind == "in bursts":
        for start in chance.integers(0, count, count // 1000):
            found[start : start + 100] *= 3
    if kind == "in a ramp to three times":
        found *= np.linspace(1.0, 3.0, count)
    return found


TIMES = ("lognormal", "every 89th a long one", "in bursts", "in a ramp to three times")


def latency_alike(chance: Chance, kind: str) -> bool:
    """Whether times of that kind, which know no arm, make a false alarm."""
    shares = steps()
    arm = draws(chance, shares)
    return alarm(arm, slow(arm, times(chance, kind, len(shares))), shares) is not None


def predictions_differ(arm: Flags, answers: Flags, shares: Flags) -> bool:
    """Whether two arms seem to answer differently at any moment: one process per category."""
    total, rest = np.zeros(len(arm)), 1.0
    _, firsts = np.unique(answers, return_index=True)
    for place, answer in enumerate(answers[np.sort(firsts)]):
        part = part_of(place)
        total += part * np.exp(running(arm, answers == answer, shares, OTHER))
        rest -= part
    return bool((total + rest >= 1 / ALPHA).any())


def predictions_alike(chance: Chance, kinds: int) -> bool:
    """Whether answers of so many kinds, some of them rare, make a false alarm."""
    shares = steps()
    weights = 1.0 / np.arange(1, kinds + 1)
    answers = chance.choice(kinds, len(shares), p=weights / weights.sum())
    return predictions_differ(draws(chance, shares), answers, shares)


# -- pairs of a mirror

PAIRS = 2000
AT_LEAST = 0.98


def disagreeing(differ: Flags, itself: Flags | None = None) -> Flags:
    """The logarithm of the evidence after each pair: of what differs between the versions, and of
    what the stable one differs by from itself where it is asked twice. The same as
    `core.agreement.log_evidence_of_disagreement`, of all beginnings at once; a test compares."""
    allowed = 1.0 - AT_LEAST
    logs = []
    for ratio in WORSE:
        part = min(allowed * ratio, (1.0 + allowed) / 2)
        lost = math.log1p(-part) - math.log1p(-allowed)
        logs.append(np.cumsum(np.where(differ, math.log(part / allowed), lost)))
    found = _mean_of(np.array(logs))
    if itself is None:
        return found
    mine, its = np.cumsum(differ), np.cumsum(itself)
    beyond = [mine * math.log(r) - (mine + its) * math.log1p(0.5 * (r - 1.0)) for r in WORSE]
    return np.asarray(np.minimum(found, _mean_of(np.array(beyond))))


def _mean_of(logs: Flags) -> Flags:
    high = logs.max(axis=0)
    return np.asarray(high + np.log(np.exp(logs - high).mean(axis=0)))


def held(evidence: Flags) -> int | None:
    """The pair, counted from 1, at which the guard fails; None: never."""
    over = np.flatnonzero(evidence >= -math.log(ALPHA))
    return int(over[0]) + 1 if len(over) else None


def in_runs(chance: Chance, count: int, part: float) -> Flags:
    """That part of the pairs, in runs of ten or so, as when a kind of request comes in bursts."""
    starts = chance.random(count) < part / 10
    return np.asarray(np.convolve(starts, np.ones(10))[:count] > 0)


def as_often_as_allowed(chance: Chance) -> int | None:
    """2 % of the pairs differ, which is what `at_least: 0.98` allows."""
    return held(disagreeing(chance.random(PAIRS) < 0.02))


def as_often_as_itself(chance: Chance) -> int | None:
    """20 % differ, as they do of the stable version with itself."""
    return held(disagreeing(chance.random(PAIRS) < 0.2, chance.random(PAIRS) < 0.2))


def in_runs_as_itself(chance: Chance) -> int | None:
    """The same requests make both of them differ, by chance, and they come in bursts."""
    hard = in_runs(chance, PAIRS, 0.3)
    one, other = (hard & (chance.random(PAIRS) < 0.5) for _ in range(2))
    return held(disagreeing(one, other))


def nearly_always(chance: Chance) -> int | None:
    """0.1 % differ: a model that agrees in 99.9 %."""
    return held(disagreeing(chance.random(PAIRS) < 0.001, chance.random(PAIRS) < 0.0))


def agreeing(agree: float, itself: float) -> Callable[[Chance], int | None]:
    """Pairs until the alarm, where a canary agrees in `agree` of them and the stable version with
    itself in `itself`."""

    def run(chance: Chance) -> int | None:
        differ = chance.random(PAIRS) >= agree
        return held(disagreeing(differ, chance.random(PAIRS) >= itself))

    return run


# -- a canary that is worse


def errors_worse(chance: Chance, share: float, usual: float, worse: float) -> int | None:
    """Requests of the canary until the alarm, where it fails more often."""
    shares = np.full(round(2000 / share), share)
    arm = draws(chance, shares)
    return alarm(arm, chance.random(len(arm)) < np.where(arm, worse, usual), shares)


def latency_worse(chance: Chance, share: float, factor: float) -> int | None:
    """The same, where it takes `factor` times as long."""
    shares = np.full(round(2000 / share), share)
    arm = draws(chance, shares)
    seconds = times(chance, "lognormal", len(arm)) * np.where(arm, factor, 1.0)
    return alarm(arm, slow(arm, seconds), shares)


@dataclass(frozen=True)
class Found:
    """Of how many runs how many had an alarm, and after how many of the canary's requests."""

    name: str
    runs: int
    at: tuple[int, ...]

    def point(self, part: float) -> float:
        """Requests of the canary after which that part of the runs had an alarm; inf: never."""
        needed = math.ceil(part * self.runs)
        return sorted(self.at)[needed - 1] if needed <= len(self.at) else math.inf


def repeated(name: str, runs: int, run: Run) -> Found:
    """`run` many times, each with a chance of its own."""
    found = [run(np.random.default_rng(seed)) for seed in range(runs)]
    return Found(name, runs, tuple(int(each) for each in found if each))


ALIKE: dict[str, Run] = {
    **{
        f"errors, {name}": partial(errors_alike, shape=shape, at_each=AT_EACH)
        for name, shape in SHAPES.items()
    },
    "errors, little traffic": partial(errors_alike, shape=often, at_each=50),
    "errors, sticky keys": sticky_alike,
    **{f"latency, {kind}": partial(latency_alike, kind=kind) for kind in TIMES},
    **{f"predictions, {n} kinds": partial(predictions_alike, kinds=n) for n in (2, 10, 40)},
    "agreement, 98 % of pairs": as_often_as_allowed,
    "agreement, 80 % as with itself": as_often_as_itself,
    "agreement, 85 % as with itself, in bursts": in_runs_as_itself,
    "agreement, 99.9 % of pairs": nearly_always,
}
"""Every row of the A/A table: false alarms."""
WORSE_AT_10: dict[str, Run] = {
    "errors, 1 % → 5 %": partial(errors_worse, share=0.1, usual=0.01, worse=0.05),
    "errors, 0.1 % → 5 %": partial(errors_worse, share=0.1, usual=0.001, worse=0.05),
    "errors, none → 100 %": partial(errors_worse, share=0.1, usual=0.0, worse=1.0),
    "latency, 1.5 times as long": partial(latency_worse, share=0.1, factor=1.5),
    "latency, twice as long": partial(latency_worse, share=0.1, factor=2.0),
}
"""Every row of the table of power, at 10 %."""
APART: dict[str, Run] = {
    "agrees in 95 %": agreeing(0.95, 1.0),
    "agrees in 90 %": agreeing(0.9, 1.0),
    "agrees in 80 %, the stable one with itself in 95 %": agreeing(0.8, 0.95),
    "agrees in 50 %": agreeing(0.5, 1.0),
}
"""Of how many pairs of a mirror a canary that answers otherwise is found, at `at_least: 0.98`."""


def page(runs: int) -> Iterator[str]:
    """The tables, as Markdown."""
    yield f"Of {runs:,} runs each, at α = {ALPHA:g}.\n"
    yield "| both arms alike | runs with a false alarm |\n|---|---|"
    for found in (repeated(name, runs, run) for name, run in ALIKE.items()):
        yield f"| {found.name} | {100 * len(found.at) / runs:.2f} % |"
    yield "\n| a canary at 10 % | median | 90 % | runs without alarm |\n|---|---|---|---|"
    for found in (repeated(name, runs, run) for name, run in WORSE_AT_10.items()):
        missed = 100 * (1 - len(found.at) / runs)
        yield f"| {found.name} | {found.point(0.5):g} | {found.point(0.9):g} | {missed:.1f} % |"
    yield "\n| a mirror's canary | pairs, median | 90 % | runs without alarm |\n|---|---|---|---|"
    for found in (repeated(name, runs, run) for name, run in APART.items()):
        missed = 100 * (1 - len(found.at) / runs)
        yield f"| {found.name} | {found.point(0.5):g} | {found.point(0.9):g} | {missed:.1f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_rollouts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", type=int, nargs="?", default=1000, help="runs of each (1000)")
    for line in page(parser.parse_args().runs):
        print(line, flush=True)


if __name__ == "__main__":
    main()

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


def repeated(name: str, runs: int, run: Callable[[Chance], int | bool | None]) -> Found:
    """`run` many times, each with a chance of its own."""
    found = [run(np.random.default_rng(seed)) for seed in range(runs)]
    return Found(name, runs, tuple(int(each) for each in found if each))


def alike(runs: int) -> Iterator[Found]:
    """Every A/A table: false alarms."""
    for name, shape in SHAPES.items():
        yield repeated(
            f"errors, {name}",
            runs,
            lambda chance, shape=shape: errors_alike(chance, shape, AT_EACH),
        )
    yield repeated("errors, little traffic", runs, lambda c: errors_alike(c, often, 50))
    yield repeated("errors, sticky keys", runs, sticky_alike)
    for kind in TIMES:
        yield repeated(f"latency, {kind}", runs, lambda c, kind=kind: latency_alike(c, kind))
    for kinds in (2, 10, 40):
        yield repeated(
            f"predictions, {kinds} kinds", runs, lambda c, n=kinds: predictions_alike(c, n)
        )


def worse(runs: int) -> Iterator[Found]:
    """Every power table, at 10 %."""
    yield repeated("errors, 1 % → 5 %", runs, lambda c: errors_worse(c, 0.1, 0.01, 0.05))
    yield repeated("errors, 0.1 % → 5 %", runs, lambda c: errors_worse(c, 0.1, 0.001, 0.05))
    yield repeated("errors, none → 100 %", runs, lambda c: errors_worse(c, 0.1, 0.0, 1.0))
    yield repeated("latency, 1.5 times as long", runs, lambda c: latency_worse(c, 0.1, 1.5))
    yield repeated("latency, twice as long", runs, lambda c: latency_worse(c, 0.1, 2.0))


def page(runs: int) -> Iterator[str]:
    """The tables, as Markdown."""
    yield f"Of {runs:,} runs each, at α = {ALPHA:g}.\n"
    yield "| both arms alike | runs with a false alarm |\n|---|---|"
    for found in alike(runs):
        yield f"| {found.name} | {100 * len(found.at) / runs:.2f} % |"
    yield "\n| a canary at 10 % | median | 90 % | runs without alarm |\n|---|---|---|---|"
    for found in worse(runs):
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

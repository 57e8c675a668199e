"""What do the rules that others judge canaries by say of the same traffic?

Re-implemented from their documentation, with the values of its examples; each is asked once a
minute, as there. Flagger: an interval in which fewer than 99 % of the canary's requests succeed is
a failed check, five of them roll back. Argo Rollouts: an interval below 95 % is a failed
measurement, more than three of them abort. Mann and Whitney's test, which Kayenta's judge uses:
the canary's error rates of the minutes so far against those of the other arm, at 98 %; looked at
once, after an hour, or each minute from the fifth on. They know nothing of each other's requests.

    python -m benchmarks.rollout_rules [RUNS]
"""

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.simulate_rollouts import (
    Chance,
    Flags,
    Found,
    alarm,
    draws,
    every,
    in_a_ramp,
    in_bursts,
)

RATE = 50  # requests a second
MINUTES = 60
SHARE = 0.1
PER_MINUTE = 60 * RATE


class Minutes(NamedTuple):
    """Requests and errors of each arm, by minute: the canary's first."""

    requests: np.ndarray
    errors: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        return self.errors / np.maximum(1, self.requests)


def by_minute(arm: Flags, events: Flags) -> Minutes:
    """What a metrics store would have of that traffic."""
    arms = np.stack([arm, ~arm]).reshape(2, MINUTES, -1)
    failed = np.broadcast_to(events.reshape(MINUTES, -1), arms.shape) & arms
    return Minutes(arms.sum(axis=2), failed.sum(axis=2))


def _nth_failed(minutes: Minutes, least: float, failures: int) -> int | None:
    """The minute of the `failures`-th interval with fewer than `least` successes."""
    failed = np.flatnonzero(1 - minutes.rates[0] < least)
    return int(failed[failures - 1]) if len(failed) >= failures else None


def flagger(minutes: Minutes) -> int | None:
    """The minute, from 0, at which it rolls back; None: never. So are the others."""
    return _nth_failed(minutes, 0.99, 5)


def argo(minutes: Minutes) -> int | None:
    return _nth_failed(minutes, 0.95, 4)


def _differs(minutes: Minutes, until: int) -> bool:
    canary, stable = minutes.rates[:, : until + 1]
    return bool(mannwhitneyu(canary, stable, alternative="two-sided").pvalue < 0.02) and bool(
        canary.mean() > stable.mean()
    )


def mann_whitney_once(minutes: Minutes) -> int | None:
    return MINUTES - 1 if _differs(minutes, MINUTES - 1) else None


def mann_whitney_each_minute(minutes: Minutes) -> int | None:
    return next((minute for minute in range(4, MINUTES) if _differs(minutes, minute)), None)


RULES: dict[str, Callable[[Minutes], int | None]] = {
    "Flagger's example, 99 %, 5 of them": flagger,
    "Argo Rollouts' example, 95 %, 4 of them": argo,
    "Mann-Whitney after an hour": mann_whitney_once,
    "Mann-Whitney each minute": mann_whitney_each_minute,
}


def _rates(usual: float, worse: float) -> Callable[[Chance, Flags], Flags]:
    return lambda chance, arm: chance.random(len(arm)) < np.where(arm, worse, usual)


def _bad_hour(chance: Chance, arm: Flags) -> Flags:
    """0.5 %, and 8 % of everybody's for ten minutes: what all of them depend on is ill."""
    rates = np.full(len(arm), 0.005)
    start = int(chance.integers(0, len(arm) - 10 * PER_MINUTE))
    rates[start : start + 10 * PER_MINUTE] = 0.08
    return chance.random(len(arm)) < rates


ALIKE = {"0.5 %": _rates(0.005, 0.005), "2 %": _rates(0.02, 0.02), "a bad ten minutes": _bad_hour}
WORSE = {"0.5 % → 3 %": _rates(0.005, 0.03), "2 % → 4 %": _rates(0.02, 0.04)}


class Traffic(NamedTuple):
    """An hour of it: which requests go to the canary, which fail, and which of these count where a
    sticky key counts once."""

    arm: Flags
    events: Flags
    counted: Flags


Made = Callable[[Chance], Traffic]


def drawn(events: Callable[[Chance, Flags], Flags], rate: float = RATE) -> Made:
    """Traffic that is split request by request, `rate` of them a second."""
    shares = np.full(round(MINUTES * 60 * rate), SHARE)

    def made(chance: Chance) -> Traffic:
        arm = draws(chance, shares)
        failed = events(chance, arm)
        return Traffic(arm, failed, failed)

    return made


def sticky(chance: Chance) -> Traffic:
    """3,000 users, some with many requests, each on the arm of its key; those of 2 % fail."""
    users = (chance.pareto(1.2, MINUTES * 60 * SLOWLY) * 20).astype(int) % 3000
    events = (chance.random(3000) < 0.02)[users]
    _, firsts = np.unique(users, return_index=True)
    first = np.zeros(len(users), bool)
    first[firsts] = True
    return Traffic((chance.random(3000) < SHARE)[users], events, events & first)


SLOWLY = 10
SHAPES: dict[str, Made] = {
    "every 34th": drawn(lambda chance, arm: every(34)(chance, len(arm)), SLOWLY),
    "every 89th": drawn(lambda chance, arm: every(89)(chance, len(arm)), SLOWLY),
    "in bursts": drawn(lambda chance, arm: in_bursts(chance, len(arm)), SLOWLY),
    "a ramp to 10 %": drawn(lambda chance, arm: in_a_ramp(chance, len(arm)), SLOWLY),
    "sticky keys": sticky,
    "little traffic, 2 %": drawn(_rates(0.02, 0.02), 1 / 6),
}


def judged(traffic: Made, runs: int) -> dict[str, Found]:
    """By rule, of how many runs it stopped the canary, and after how many of its requests."""
    at: dict[str, list[int]] = {name: [] for name in ("Headgate's errors guard", *RULES)}
    for seed in range(runs):
        arm, events, counted = traffic(np.random.default_rng(seed))
        if (requests := alarm(arm, counted, np.full(len(arm), SHARE))) is not None:
            at["Headgate's errors guard"].append(requests)
        minutes = by_minute(arm, events)
        for name, rule in RULES.items():
            if (minute := rule(minutes)) is not None:
                at[name].append(int(minutes.requests[0, : minute + 1].sum()))
    return {name: Found(name, runs, tuple(each)) for name, each in at.items()}


def page(runs: int) -> Iterator[str]:
    """The table, as Markdown."""
    columns = {**ALIKE, **WORSE}
    found = {name: judged(drawn(traffic), runs) for name, traffic in columns.items()}
    yield f"An hour of {RATE} requests a second, {100 * SHARE:g} % to the canary; {runs:,} runs.\n"
    heads = [f"both {name}" for name in ALIKE] + [f"{name}: requests until" for name in WORSE]
    yield f"| rule | {' | '.join(heads)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for rule in ("Headgate's errors guard", *RULES):
        stopped = [f"{100 * len(found[name][rule].at) / runs:.1f} % stopped" for name in ALIKE]
        until = [_until(found[name][rule]) for name in WORSE]
        yield f"| {rule} | {' | '.join([*stopped, *until])} |"


def shapes(runs: int) -> Iterator[str]:
    """The table of traffic that knows no arm, of several shapes."""
    found = {name: judged(made, runs) for name, made in SHAPES.items()}
    yield f"An hour of {SLOWLY} requests a second, and of ten a minute; {runs:,} runs.\n"
    yield f"| rule | {' | '.join(SHAPES)} |"
    yield "|---" * (1 + len(SHAPES)) + "|"
    for rule in ("Headgate's errors guard", *RULES):
        stopped = [f"{100 * len(found[name][rule].at) / runs:.1f} % stopped" for name in SHAPES]
        yield f"| {rule} | {' | '.join(stopped)} |"


def _until(found: Found) -> str:
    missed = found.runs - len(found.at)
    never = f", never in {100 * missed / found.runs:.0f} %" if missed else ""
    median = f"{found.point(0.5):,g}" if len(found.at) * 2 >= found.runs else "–"
    return f"{median}{never}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout_rules", description=__doc__.splitlines()[0]
    )
    parser.add_argument("runs", type=int, nargs="?", default=200, help="runs of each (200)")
    runs = parser.parse_args().runs
    for line in (*page(runs), "", *shapes(runs)):
        print(line, flush=True)


if __name__ == "__main__":
    main()

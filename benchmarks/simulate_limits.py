"""Does a learned concurrency limit ever cost an answer that the instance had room for?

Cases that once did, and their like, over many seeds, by the simulation that runs the code of
`gateway.core`. Where the instances have room for all that comes, not one request may be refused,
and seconds after a hiccup all is as before. Where they have not, no more may be refused than of
instances that report their load.

    python -m benchmarks.simulate_limits [SEEDS] [PART OF A CASE'S NAME]
"""

import argparse
import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.simulate_balancing import Fleet, Headgate, Machine, Request, simulate

Takes = Callable[[random.Random, float], float]
PLENTY = 60_000  # slots of an instance with room for everybody


def kinds(*parts: tuple[float, float]) -> Takes:
    """(share, seconds) of each kind; the shares add up to 1."""

    def takes(source: random.Random, now: float) -> float:
        at = source.random()
        for share, seconds in parts:
            at -= share
            if at < 0.0:
                return seconds * source.uniform(0.95, 1.05)
        return parts[-1][1]

    return takes


def lognormal(median_s: float, sigma: float) -> Takes:
    return lambda source, now: median_s * source.lognormvariate(0.0, sigma)


def pareto(least_s: float, alpha: float) -> Takes:
    return lambda source, now: least_s * source.paretovariate(alpha)


def while_between(begin: float, end: float, other: Takes, usual: Takes) -> Takes:
    return lambda source, now: (other if begin <= now < end else usual)(source, now)


def ramp(begin: float, end: float, first_s: float, last_s: float) -> Takes:
    def takes(source: random.Random, now: float) -> float:
        part = min(1.0, max(0.0, (now - begin) / (end - begin)))
        return (first_s + (last_s - first_s) * part) * source.uniform(0.95, 1.05)

    return takes


@dataclass(frozen=True)
class Case:
    """`rate` a second for `seconds` at one machine; it has room for all of it unless `is_full`.
    From `calm_at` on everybody must be answered within `within_s` of its service."""

    name: str
    machine: Machine
    rate: float
    seconds: float = 20.0
    workers: int = 1
    held: int = 0
    is_full: bool = False
    slow: tuple[float, float, float] | None = None  # from, until, what each takes at least
    pause: tuple[float, float] | None = None
    calm_at: float = 0.0
    within_s: float = 0.5


LONG_AND_SHORT = kinds((0.3, 2.0), (0.7, 0.05))
SHORT = kinds((1.0, 0.05))
SILENT = Machine(slots=PLENTY, reports=False)


def _with(takes: Takes, slots: int = PLENTY) -> Machine:
    return replace(SILENT, takes=takes, slots=slots)


def cases() -> list[Case]:
    two = LONG_AND_SHORT
    five = kinds((0.5, 5.0), (0.5, 0.2))
    three = kinds((0.1, 3.0), (0.3, 0.4), (0.6, 0.02))
    found = [
        Case("two kinds", _with(two), 40.0, 40.0),
        Case("two kinds, 40 slots", _with(two, 45), 40.0, 40.0),
        Case("5 s and 200 ms", _with(five), 20.0, 40.0),
        Case("three kinds", _with(three), 60.0),
        Case("few short", _with(kinds((0.95, 2.0), (0.05, 0.02))), 40.0, 40.0),
        Case("short kind away", _with(while_between(8, 14, kinds((1.0, 2.0)), two)), 40.0, 40.0),
        Case("short, then long", _with(while_between(8, 99, kinds((1.0, 2.0)), SHORT)), 40.0, 30.0),
        Case("slower and slower", _with(ramp(5, 12, 0.05, 2.0)), 40.0, 30.0),
        Case("slower at once", _with(ramp(5, 7, 0.05, 1.0)), 100.0, 20.0),
    ]
    for sigma in (0.5, 1.0, 1.5, 2.0):
        found.append(Case(f"lognormal {sigma}", _with(lognormal(0.2, sigma)), 40.0))
        changes = while_between(8, 14, lognormal(2.0, sigma), lognormal(0.1, sigma))
        found.append(Case(f"lognormal {sigma}, changes", _with(changes), 40.0, 30.0))
    found.append(Case("pareto", _with(pareto(0.1, 1.5)), 60.0))
    found.append(
        Case(
            "pareto, changes", _with(while_between(8, 14, pareto(1, 1.5), pareto(0.05, 1.5))), 40.0
        )
    )
    for held in (0, 8, 100):
        for rate in (20.0, 300.0):
            found.append(
                Case(
                    f"slow moment, {held} held, {rate:.0f}/s",
                    _with(SHORT),
                    rate,
                    16.0,
                    held=held,
                    slow=(5.0, 7.0, 2.0),
                    calm_at=12.0,
                )
            )
            found.append(
                Case(
                    f"pause, {held} held, {rate:.0f}/s",
                    _with(SHORT),
                    rate,
                    16.0,
                    held=held,
                    pause=(5.0, 7.0),
                    calm_at=12.0,
                )
            )
    for slots, rate in ((1, 12.0), (2, 28.0), (8, 120.0), (25, 400.0)):
        found.append(Case(f"{slots} slots at 65 %", _with(SHORT, slots), rate))
        found.append(
            Case(
                f"{slots} slots at 65 %, pause",
                _with(SHORT, slots),
                rate,
                20.0,
                pause=(5.0, 6.0),
                calm_at=12.0,
            )
        )
    found.append(Case("25 slots, two kinds", _with(two, 25), 40.0, 40.0, is_full=True))
    found.append(Case("8 slots, two kinds", _with(two, 8), 10.0, 40.0, is_full=True))
    four = [replace(each, name=f"{each.name}, 4 workers", workers=4) for each in found]
    told = [
        replace(each, name=f"{each.name}, reports", machine=replace(each.machine, reports=True))
        for each in found
        if not each.is_full
    ]
    return found + four + told  # fmt: skip


def run(case: Case, seed: int) -> tuple[list[Request], Fleet]:
    """One run of `case`."""
    events: dict[float, Callable[[Fleet], None]] = {}
    if case.held:
        events[0.001] = lambda fleet: [
            worker.hold(0, -(-case.held // case.workers)) for worker in fleet.workers
        ]
    if case.slow is not None:
        begin, end, takes_s = case.slow
        events[begin] = lambda fleet: fleet.slow_down(0, end, takes_s)
    if case.pause is not None:
        begin, until = case.pause
        events[begin] = lambda fleet: fleet.pause(0, until)
    phases = [(case.seconds, case.rate)]
    return simulate(
        functools.partial(Headgate, max_in_flight=100_000), [case.machine], phases, seed,
        case.workers, events,
    )  # fmt: skip


def refused(requests: list[Request]) -> int:
    return sum(each.refused is not None for each in requests)


def late(case: Case, requests: list[Request]) -> int:
    """How many waited too long at the gateway when all was calm again."""
    return sum(
        each.machine >= 0 and each.sent - each.arrived > case.within_s
        for each in requests
        if case.calm_at and each.arrived >= case.calm_at
    )


def longest_wait_s(requests: list[Request]) -> float:
    return max((each.sent - each.arrived for each in requests if each.machine >= 0), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate_limits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seeds", type=int, nargs="?", default=10, help="of every case; 10")
    parser.add_argument("wanted", nargs="?", default="", help="part of a case's name; all cases")
    options = parser.parse_args()
    seeds, wanted = options.seeds, options.wanted
    if seeds < 1:
        parser.error(f"{seeds} seeds: at least 1 is needed")
    if not any(wanted in case.name for case in cases()):
        parser.error(f"no case has {wanted!r} in its name")
    for case in cases():
        if wanted not in case.name:
            continue
        began = time.perf_counter()
        bad, worst, lates, wait_s = [], 0, 0, 0.0
        for seed in range(1, seeds + 1):
            requests, _ = run(case, seed)
            count = refused(requests)
            if case.is_full:
                told = replace(case, machine=replace(case.machine, reports=True))
                count = max(0, count - refused(run(told, seed)[0]) - len(requests) // 50)
            lates += late(case, requests)
            wait_s = max(wait_s, longest_wait_s(requests))
            if count:
                bad.append(seed)
                worst = max(worst, count)
        took_s = time.perf_counter() - began
        sign = "bad" if bad or lates else "ok "
        print(
            f"{sign} {case.name:42} {len(bad)}/{seeds} seeds, worst {worst}, late {lates},"
            f" longest wait {wait_s:.2f} s {bad[:5]} ({took_s:.1f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()

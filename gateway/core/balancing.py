"""Which instance of a backend gets a request (load balancing)?

The one with the least expected delay: how long it takes for an answer, stretched by what it
already has to do (`instance_load`). Of those that are about as fast the least busy one: what was
learned is no more exact than that. All instances are looked at each time: two random choices lose
to that when there are few.

`choose` decides and changes nothing. Which instances may get requests at all is `health`; whether
a request had better wait than go to the chosen one is `queueing`.
"""

import math
from collections.abc import Sequence
from typing import Final

from gateway.core.instance_load import FORGET_S, LOOK_S, Load

# Behind each: what other values make of the p99 in ms, with one worker and with four, of UNEVEN in
# benchmarks/simulate_balancing.py at 70 % of its capacity, the median of eleven seeds: 68 and 80
# as it is. "No case": a quarter and four times as much do as well there, and in eleven cases of
# benchmarks/simulate_limits.py (slow moments, pauses, full instances); then a reason holds it.
# Of instances that are about as fast the least busy one is chosen: all stay warm and known, and
# none gets a crowd for a hair's breadth.
ALIKE: Final = 0.7  # 0.3: 68, 116; 1: 68, 81
ALIKE_S: Final = 0.001  # no case
# Answers without which none counts as slow: the first ones are cold.
JUDGED: Final = 2  # 8: 69, 83; 32: 76, 126
TARGET_OF_NEW: Final = 32.0  # before anybody has answered; no case
FULL: Final = -1.0
_STEP: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def usual_service_s(loads: Sequence[Load]) -> float:
    """The mean of what is known of the service times, 1.0 when nothing is."""
    total, known = 0.0, 0
    for load in loads:
        if load.service_s:
            total += load.service_s
            known += 1
    return total / known if known else 1.0


def usual_target(loads: Sequence[Load]) -> float:
    """What a new instance should have at once: as many as its peers, for the instances of a
    backend are alike, or a cautious number until one of them has answered."""
    return max((load.target for load in loads if load.slots), default=TARGET_OF_NEW)


def choose(balance: str, loads: Sequence[Load], rotation: int, now: float, ahead: int = 0) -> int:
    """The index in `loads` of the instance for one more request; -1 when none has room.

    `rotation` counts up with each choice from a random start: it breaks ties, is the
    position of `round_robin` and the chance of `random`. Room is up to what each should compute
    at once and more, at most its `limit`: one if there may be any `ahead`, or so many, up to a
    batch, where it computes batches, for it begins the next one with what is there. Within that a
    worker may always have one computed, for what it knows of the others is old.
    """
    count = len(loads)
    if not count:
        return -1
    start = rotation % count if balance != "random" else (scrambled(rotation) * count) >> 64
    if balance == "least_loaded" and count > 1:
        return _with_least_delay(loads, start, now, ahead)
    avoided = -1
    for index in range(start - count, start):  # from `start` on, all around
        load = loads[index]
        if _occupied_below_target(load, loads, now, ahead) == FULL:
            continue
        if load.avoid_until <= now:
            return index % count
        if avoided < 0:
            avoided = index % count
    return avoided


def _with_least_delay(loads: Sequence[Load], start: int, now: float, ahead: int) -> int:
    """The index of the one with room that is preferred, of equal ones the first from `start` on."""
    count = len(loads)
    able: list[_Able] = []
    quickest_s = least_s = least_busy = math.inf
    for index in range(start - count, start):
        load = loads[index]
        occupied = _occupied_below_target(load, loads, now, ahead)
        if occupied == FULL:
            continue
        slots = load.slots
        busy = occupied / slots if slots else occupied + load.held
        avoid, delay = load.avoid_until > now, 0.0
        if load.samples >= JUDGED:
            if (
                busy >= least_busy
                and (load.service_s if slots else load.base_s) >= least_s
                and (load.in_flight or now - load.learned_at <= FORGET_S)
            ):
                continue  # even alone it takes longer than one before it that is no busier
            delay = load.delay(now, occupied)
            if not avoid:
                least_s, least_busy = delay, busy
                if delay < quickest_s:
                    quickest_s = delay
        able.append((index, avoid, delay, busy))
    if len(able) == 1:
        return able[0][0] % count
    return _preferred(able, quickest_s) % count if able else -1


def _occupied_below_target(load: Load, loads: Sequence[Load], now: float, ahead: int) -> float:
    """How many requests it computes, as far as known; FULL where there is no room for one more."""
    computed = load.in_flight - load.held
    if load.shared is not None and now - load.looked_at > LOOK_S:
        load.look(now)
    occupied = load.occupied(now) if load.reported_at else computed + load.others
    target = load.target
    if ahead:
        target += min(load.slots, ahead) if load.computes_batches else 1.0
    if target == math.inf and not load.is_fixed:
        target = usual_target(loads) if load.is_new else load.concurrency.peers.guess(now)
    if load.weight < 1.0:
        target *= load.weight
    if load.in_flight >= load.limit or (occupied >= target and computed > 0):
        return FULL
    if load.avoid_until and computed > 0 and is_on_trial(load, loads):
        return FULL
    return occupied


def is_on_trial(load: Load, loads: Sequence[Load]) -> bool:
    """Whether it is tried by one request at a time: it was to be avoided and has not answered well
    since, and there is another of which that is not so. Who fails quickly has room again at once:
    the moment it is tried again it would take all that waits for the others."""
    return load.avoid_until > 0.0 and any(not each.avoid_until for each in loads)


_Able = tuple[int, bool, float, float]
"""One that has room: its index, whether it is to be avoided, its delay (0.0 while nobody can judge
it), and how busy it is."""


def _preferred(able: Sequence[_Able], quickest_s: float) -> int:
    """The index of the first in the order of preference: those that need not be avoided, of them
    those about as fast as the quickest, of them the least busy."""
    found, best, least_busy = 0, 4, math.inf
    for index, avoid, delay, busy in able:
        rank = (2 if avoid else 0) + (1 if delay * ALIKE - ALIKE_S > quickest_s else 0)
        if rank < best or (rank == best and busy < least_busy):
            found, best, least_busy = index, rank, busy
    return found


def scrambled(rotation: int) -> int:
    """`rotation` as a number in [0, 2^64) that looks like chance (splitmix64, Steele 2014)."""
    z = rotation * _STEP & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)

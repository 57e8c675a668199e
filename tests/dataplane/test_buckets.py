"""Limits hold over all workers, without waiting, whatever becomes of one of them."""

import os
import random
import signal
import sys
import time
from functools import partial
from multiprocessing import get_context
from typing import Any

import pytest

from gateway.core.entries import Limits
from gateway.core.rate_limit import RateLimited, part
from gateway.dataplane import limiting
from gateway.dataplane.bucket import Bucket, OverLimit
from gateway.dataplane.buckets import LOCKS, Buckets, Busy
from gateway.telemetry.book import shared_memory

FORK = get_context("fork")


def takes(bucket: Bucket, now: float) -> bool:
    try:
        bucket.enter(now)
    except OverLimit:
        return False
    return True


def alone(limits: Limits) -> Bucket:
    return Bucket(Buckets(None, 1), "key", "acme", limits)


def test_a_bucket_gives_its_burst_and_then_the_rate() -> None:
    bucket = alone(Limits(10, 1.0, 5))
    assert [takes(bucket, 100.0) for _ in range(6)] == [True] * 5 + [False]
    with pytest.raises(OverLimit) as refused:
        bucket.enter(100.04)
    assert refused.value.wait_s == pytest.approx(0.06)
    assert bucket.wait_s(100.04) == pytest.approx(0.06)
    assert takes(bucket, 100.1)
    assert not takes(bucket, 100.1)
    assert [takes(bucket, 200.0) for _ in range(6)] == [True] * 5 + [False]


def test_in_any_time_no_more_than_the_burst_and_the_rate_are_admitted_and_no_less() -> None:
    draw, now, admitted = random.Random(5), 0.0, []
    bucket, tokens, wanted = alone(Limits(50, 1.0, 20)), 20.0, 0
    for _ in range(20_000):
        gap_s = draw.expovariate(200) if draw.random() < 0.999 else 3.0
        now, tokens = now + gap_s, min(20.0, tokens + 50 * gap_s)
        if tokens >= 1.0:
            tokens, wanted = tokens - 1.0, wanted + 1
        if takes(bucket, now):
            admitted.append(now)
    for first in range(0, len(admitted), 7):
        for last in range(first, min(first + 400, len(admitted)), 13):
            lasted_s = admitted[last] - admitted[first]
            assert last - first + 1 <= 20 + 50 * lasted_s + 1e-6
    assert abs(len(admitted) - wanted) <= 1


def test_what_was_undone_was_never_there() -> None:
    bucket = alone(Limits(1, 60.0, 1, in_flight=1))
    bucket.enter(5.0)
    bucket.undo()
    bucket.enter(5.0)
    assert not takes(bucket, 5.0)


def test_no_more_are_in_flight_than_may_be() -> None:
    bucket = alone(Limits(in_flight=2))
    assert [takes(bucket, 0.0) for _ in range(3)] == [True, True, False]
    bucket.leave()
    assert takes(bucket, 0.0)


def test_of_several_gateways_each_admits_its_part() -> None:
    buckets = Buckets(None, 1)
    rate = Bucket(buckets, "key", "acme", Limits(100, 1.0, 30))
    most = Bucket(buckets, "route", "digits", Limits(in_flight=9))
    buckets.gateways = 3
    assert sum(takes(rate, 100.0) for _ in range(50)) == 10, "of the burst"
    admitted = sum(takes(rate, 100.0 + step / 100) for step in range(1, 301))
    assert 99 <= admitted <= 100, "in three seconds at a third of 100/s"
    assert sum(takes(most, 100.0) for _ in range(50)) == 3
    buckets.gateways = 1
    assert sum(takes(most, 200.0) for _ in range(50)) == 6
    assert part(Limits(1, 60.0, 1, 1), 5) == Limits(1, 300.0, 1, 1)


def test_a_bucket_goes_on_under_changed_limits() -> None:
    buckets = Buckets(None, 1)
    first = Bucket(buckets, "key", "acme", Limits(10, 1.0, 10))
    assert [takes(first, 1.0) for _ in range(10)] == [True] * 10
    faster = Bucket(buckets, "key", "acme", Limits(100, 1.0, 10))
    assert not takes(Bucket(buckets, "key", "acme", Limits(10, 1.0, 10)), 1.0)
    assert takes(faster, 1.92)
    assert takes(Bucket(buckets, "route", "acme", Limits(10, 1.0, 1)), 1.0)


def refusal(bucket: Bucket, now: float) -> float:
    """After how many seconds whom `bucket` refuses now is told to come again."""
    with pytest.raises(RateLimited) as refused:
        limiting.enter((bucket,), now, lambda: now)
    return refused.value.retry_after_s


def test_what_was_taken_at_a_slow_rate_holds_nobody_up_for_an_hour_at_a_fast_one() -> None:
    buckets = Buckets(None, 1)
    slow = Bucket(buckets, "key", "acme", Limits(1, 60.0, 60))
    assert sum(takes(slow, 1.0) for _ in range(61)) == 60
    fast = Bucket(buckets, "key", "acme", Limits(10, 1.0, 20))
    assert refusal(fast, 1.0) == 1, "what was used up stays used up"
    assert fast.wait_s(1.0) == pytest.approx(0.1)
    assert sum(takes(fast, 1.0 + step / 100) for step in range(1, 301)) in (29, 30)
    assert sum(takes(fast, 100.0) for _ in range(30)) == 20


def test_whose_body_is_not_there_yet_is_held_up_no_longer() -> None:
    buckets = Buckets(None, 1)
    slow, fast = (
        Bucket(buckets, "key", "acme", limits)
        for limits in (Limits(1, 60.0, 61), Limits(10, 1.0, 20))
    )
    assert takes(fast, 1.0)
    assert sum(takes(slow, 1.0) for _ in range(61)) == 60
    with pytest.raises(RateLimited) as refused:
        limiting.check((fast,), 1.0, lambda: 1.0)
    assert refused.value.retry_after_s == 1
    limiting.check((fast,), 1.2, lambda: 1.2)
    assert takes(fast, 1.2)


def test_who_was_held_up_before_it_could_decide_is_forgiven_nothing() -> None:
    bucket = alone(Limits(10, 1.0, 20))
    assert sum(takes(bucket, 9.0) for _ in range(21)) == 20
    with pytest.raises(RateLimited):
        limiting.enter((bucket,), 1.0, lambda: 9.0)
    assert not takes(bucket, 9.0)


def test_what_another_worker_took_at_a_slow_rate_holds_nobody_up_either() -> None:
    memory = shared_memory()
    ours = Bucket(Buckets(memory, 2), "key", "acme", Limits(1000, 1.0, 200))

    def spend() -> None:
        slow = Bucket(Buckets(memory, 2), "key", "acme", Limits(1, 60.0, 600))
        writer.send(sum(takes(slow, 1.0) for _ in range(600)))
        signal.pause()

    reader, writer = FORK.Pipe(False)
    process = FORK.Process(target=spend, daemon=True)
    process.start()
    assert reader.recv() == 600 - 3
    assert refusal(ours, 1.0) == 1
    admitted = sum(takes(ours, 1.0 + step / 2000) for step in range(1, 2001))
    assert 1000 - 4 <= admitted <= 1000, "in a second at 1000/s, and nothing of the burst"
    process.kill()
    process.join()
    os.close(memory)


@pytest.mark.parametrize("burst", [3, 2000])
def test_all_workers_together_admit_what_the_limit_is(burst: int) -> None:
    memory = shared_memory()
    limits = Limits(1000, 1.0, burst)
    begin = time.monotonic() + 0.2
    end = begin + 0.5
    # Room for all that comes meanwhile, whenever the others have their turn: nothing overflows.
    ahead = 600 if burst > 600 else 0
    first = Bucket(Buckets(memory, 4), "key", "acme", limits)
    assert all(takes(first, begin) for _ in range(ahead))

    def work() -> int:
        bucket = Bucket(Buckets(memory, 4), "key", "acme", limits)
        admitted = 0
        while time.monotonic() < begin:
            pass
        while (now := time.monotonic()) < end:
            try:
                admitted += takes(bucket, now)
            except Busy:
                pass
        # Who is kept from a processor in the last moments has not asked for what is due.
        while True:
            try:
                if not takes(bucket, end):
                    return admitted
                admitted += 1
            except Busy:
                pass

    pipes = []
    for _ in range(4):
        reader, writer = FORK.Pipe(False)

        def run(writer: Any = writer) -> None:
            writer.send(work())

        process = FORK.Process(target=run)
        process.start()
        pipes.append((reader, process))
    total = ahead + sum(reader.recv() for reader, _ in pipes)
    for _, process in pipes:
        process.join()
    os.close(memory)
    most = burst + 1000 * 0.5
    assert total <= most + 1
    if ahead:
        assert total >= 0.98 * most


def test_a_worker_that_is_killed_gives_back_what_it_had_in_flight_and_no_rate() -> None:
    memory = shared_memory()
    limits = Limits(10, 60.0, 100, in_flight=3)

    def die() -> None:
        bucket = Bucket(Buckets(memory, 2), "key", "acme", limits)
        for _ in range(3):
            bucket.enter(100.0)
        writer.send(takes(bucket, 100.0))
        os.kill(os.getpid(), signal.SIGKILL)

    reader, writer = FORK.Pipe(False)
    process = FORK.Process(target=die, daemon=True)
    process.start()
    assert reader.recv() is False
    process.join()
    buckets = Buckets(memory, 2)
    bucket = Bucket(buckets, "key", "acme", limits)
    assert [takes(bucket, 100.0) for _ in range(4)] == [True] * 3 + [False]
    for _ in range(3):
        bucket.leave()
    rest = Bucket(buckets, "key", "acme", Limits(10, 60.0, 1000))
    assert sum(takes(rest, 100.0) for _ in range(1200)) == 1000 - 6 - buckets.margin


def test_a_worker_that_was_alone_counts_with_those_that_come_and_go() -> None:
    memory = shared_memory()
    limits = Limits(1, 60.0, 1000, in_flight=600)  # three of each are left, for two workers
    bucket = Bucket(Buckets(memory, 2), "key", "acme", limits)
    assert all(takes(bucket, 100.0) for _ in range(10))

    def come() -> None:
        other = Bucket(Buckets(memory, 2), "key", "acme", limits)
        writer.send([takes(other, 100.0) for _ in range(20)])
        signal.pause()

    reader, writer = FORK.Pipe(False)
    process = FORK.Process(target=come, daemon=True)
    process.start()
    assert all(reader.recv())
    assert sum(takes(bucket, 100.0) for _ in range(600)) == 597 - 30
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert sum(takes(bucket, 110.0) for _ in range(60)) == 20, "what it had in flight is free"
    for _ in range(597):
        bucket.leave()
    assert sum(takes(bucket, 110.0) for _ in range(600)) == 997 - 617, "what it took is taken"
    os.close(memory)


def test_what_is_in_flight_under_old_limits_counts_under_the_new_ones() -> None:
    buckets = Buckets(None, 1)
    old, new = (
        Bucket(buckets, "key", "acme", Limits(in_flight=most, requests=1000, burst=1000))
        for most in (2, 3)
    )
    assert [takes(each, 1.0) for each in (old, new, old, new, new)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    old.leave()
    assert takes(new, 1.0)
    old.undo()
    assert takes(new, 1.0)


def test_nobody_waits_for_a_worker_that_stands_still_in_a_decision() -> None:
    memory = shared_memory()
    bucket = Bucket(Buckets(memory, 2), "key", "acme", Limits(10, 1.0, 2))
    assert takes(bucket, 1.0)
    place = bucket.place

    def hold() -> None:
        buckets = Buckets(memory, 2)
        buckets.lock(LOCKS + place)
        writer.send(True)
        signal.pause()

    reader, writer = FORK.Pipe(False)
    process = FORK.Process(target=hold, daemon=True)
    process.start()
    reader.recv()
    with pytest.raises(Busy):
        bucket.enter(1.0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert takes(bucket, 1.0)


def test_a_place_is_taken_over_from_who_needs_it_no_more(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.modules[Buckets.__module__], "NEAR", 1)
    monkeypatch.setattr(sys.modules[Buckets.__module__], "PLACES", 1)
    buckets = Buckets(None, 1)
    one, two = (Bucket(buckets, "key", name, Limits(1, 1.0, 1)) for name in ("one", "two"))
    assert takes(one, 1.0)
    with pytest.raises(Busy):
        two.enter(1.5)
    assert takes(two, 3.0)
    assert takes(one, 9.0)


@pytest.mark.parametrize("places", [2, 1 << 18])
def test_two_workers_in_turn_decide_as_one_would_that_sees_all(
    monkeypatch: Any, places: int
) -> None:
    monkeypatch.setattr(sys.modules[Buckets.__module__], "NEAR", 2)
    monkeypatch.setattr(sys.modules[Buckets.__module__], "PLACES", places)
    memory = shared_memory()
    names = ("one", "two", "three")
    limits = Limits(10, 1.0, 364, in_flight=340)
    burst, most = 364 - 3, 340 - 3  # what two workers leave

    def worker() -> dict[str, Bucket]:
        buckets = Buckets(memory, 2)
        return {name: Bucket(buckets, "key", name, limits) for name in names}

    def act(buckets: dict[str, Bucket], name: str, now: float) -> bool | None:
        if not now:
            buckets[name].leave()
            return None
        try:
            return takes(buckets[name], now)
        except Busy:
            return None

    def obey(pipe: Any) -> None:
        buckets = worker()
        while True:
            pipe.send(act(buckets, *pipe.recv()))

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=obey, args=(theirs,), daemon=True)
    own = worker()
    process.start()
    theirs.close()

    def there(name: str, now: float) -> bool | None:
        ours.send((name, now))
        said: bool | None = ours.recv()
        return said

    chance, now = random.Random(places), 100.0
    full_at = dict.fromkeys(names, 0.0)
    flying: dict[str, list[int]] = {name: [] for name in names}
    refused = {"rate": 0, "in_flight": 0}
    for step in range(6000):
        now += chance.choice((0.0, 0.01, 0.02)) if chance.randrange(1500) else 9.0
        name, who = chance.choice(names), chance.randrange(2)
        done = flying[name]
        while done and chance.random() < (0.9 if step // 1500 % 2 else 0.1):
            (there if done.pop(chance.randrange(len(done))) else partial(act, own))(name, 0.0)
        left = burst - (max(full_at[name], now) - now) / 0.1
        admitted = (there if who else partial(act, own))(name, now)
        if admitted is None:
            assert places == 2  # another one needs the place
            continue
        if abs(left - 1.0) > 1e-3:  # neither way is wrong at the edge
            assert admitted == (left > 1.0 and len(done) < most), (name, left, done)
            refused["rate"] += left < 1.0
            refused["in_flight"] += left > 1.0 and not admitted
        if admitted:
            full_at[name] = max(full_at[name], now) + 0.1
            done.append(who)
    assert min(refused.values()) > 10, refused
    process.kill()
    process.join()
    os.close(memory)

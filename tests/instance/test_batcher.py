"""The queue's two rules, deadlines and places, without a clock."""

import weakref
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instance.core.batching import Batcher, Lack, Policy
from instance.core.expiring import SPARE


@dataclass(eq=False)
class Item:
    arrived: float
    deadline: float = inf
    size: int = 0


def batcher(size: int = 4, queue: int = 100, window_s: float = 0.0) -> Batcher[Item]:
    return Batcher(Policy(size, queue, window_s))


def offered(queue: Batcher[Item], item: Item, wait_s: float = 0.0) -> bool:
    """Whether `item` may wait, and does, where `wait_s` is how long that would be."""
    if queue.lacks(item.size, lambda: wait_s) is not None:
        return False
    queue.offer(item)
    return True


def test_an_idle_worker_takes_what_is_there_at_once() -> None:
    queue = batcher()
    items = [Item(0.0), Item(0.0)]
    for item in items:
        assert offered(queue, item)
    assert queue.delay(0.0) == 0.0
    assert queue.take(0.0) == (items, [])
    assert (queue.waiting, queue.running, queue.delay(0.0)) == (0, 2, None)


def test_a_batch_is_the_oldest_and_no_larger_than_allowed() -> None:
    queue = batcher(size=2)
    items = [Item(float(i)) for i in range(3)]
    for item in items:
        queue.offer(item)
    assert queue.take(9.0)[0] == items[:2]
    assert queue.take(9.0)[0] == items[2:]


def test_r45_a_full_queue_takes_nothing_more_until_there_is_room() -> None:
    queue = batcher(size=1, queue=2)
    first = Item(0.0)
    assert offered(queue, first)
    assert offered(queue, Item(0.0))
    assert not offered(queue, Item(0.0))
    queue.leave(first)
    assert offered(queue, Item(0.0))


def test_r43_who_left_is_in_no_batch_and_leaving_twice_frees_one_place() -> None:
    queue = batcher()
    stays, leaves = Item(0.0), Item(0.0)
    queue.offer(leaves)
    queue.offer(stays)
    queue.leave(leaves)
    queue.leave(leaves)
    assert queue.waiting == 1
    assert queue.take(0.0) == ([stays], [])


def test_r43_nothing_is_kept_of_those_that_left_or_expired() -> None:
    queue = batcher(queue=10_000)
    first = Item(0.0)
    queue.offer(first)
    kept = []
    for i in range(1000):
        leaves, expires = Item(0.0, deadline=1e6), Item(0.0, deadline=float(i))
        queue.offer(leaves)
        queue.offer(expires)
        kept += [weakref.ref(leaves), weakref.ref(expires)]
        queue.leave(leaves)
        queue.expire(float(i))
        del leaves, expires
    assert not any(one() for one in kept)
    assert len(queue.expiring) <= 2 * SPARE  # nor of where they stood
    assert queue.take(0.0) == ([first], [])


def test_to_look_for_the_expired_costs_no_more_than_they_are() -> None:
    looked = 0

    class Counted(Item):
        def __getattribute__(self, name: str) -> object:
            nonlocal looked
            looked += 1
            return super().__getattribute__(name)

    queue = batcher(queue=10_000)
    for i in range(10_000):
        queue.offer(Counted(0.0, deadline=10.0 + i))
    looked = 0
    assert queue.expire(9.0) == []
    assert looked == 0
    assert len(queue.expire(14.0)) == 5
    assert looked < 20


def test_a_queue_is_as_full_as_what_waits_is_large_but_never_for_one_alone() -> None:
    queue: Batcher[Item] = Batcher(Policy(1, 100, 0.0, max_bytes=10))
    large, small = Item(0.0, size=50), Item(0.0, size=4)
    assert offered(queue, large)
    assert not offered(queue, small)
    queue.leave(large)
    assert offered(queue, small)
    assert offered(queue, Item(0.0, size=6))
    assert not offered(queue, Item(0.0, size=1))
    queue.take(0.0)
    assert offered(queue, Item(0.0, size=4))


def test_beyond_the_sure_places_who_would_wait_too_long_is_refused_and_nobody_else() -> None:
    queue: Batcher[Item] = Batcher(Policy(1, 4, sure_queue=2, max_wait_s=30.0))
    assert [offered(queue, Item(0.0), 99.0) for _ in range(3)] == [True, True, False]
    assert queue.lacks(0, lambda: 30.1) is Lack.TIME
    assert [offered(queue, Item(0.0), 30.0) for _ in range(3)] == [True, True, False]
    assert queue.lacks(0, lambda: 0.0) is Lack.PLACES


def test_r42_who_expired_is_dropped_as_the_batch_forms_and_takes_no_place_in_it() -> None:
    queue = batcher(size=2)
    late, one, two = Item(0.0, deadline=1.0), Item(0.0), Item(0.0, deadline=3.0)
    for item in (late, one, two):
        queue.offer(item)
    assert queue.take(1.0) == ([one, two], [late])
    assert (queue.waiting, queue.running) == (0, 2)


def test_r42_who_expires_while_waiting_leaves_the_queue() -> None:
    queue = batcher()
    late, stays = Item(0.0, deadline=1.0), Item(0.0)
    queue.offer(late)
    queue.offer(stays)
    assert queue.expire(0.9) == []
    assert queue.expire(1.0) == [late]
    assert queue.take(1.0) == ([stays], [])


def test_a_lone_client_never_waits_for_company() -> None:
    queue = batcher(window_s=5.0)
    now = 0.0
    for _ in range(5):
        queue.offer(Item(now))
        assert queue.delay(now) == 0.0
        queue.take(now)
        queue.finish(1)
        now += 0.001


def test_with_company_lately_the_window_counts_from_the_oldest_arrival() -> None:
    queue = batcher(size=4, window_s=5.0)
    for _ in range(3):
        queue.offer(Item(0.0))
    queue.take(0.0)
    queue.finish(3)
    queue.offer(Item(10.0))
    assert queue.delay(10.0) == 5.0
    queue.offer(Item(12.0))
    assert queue.delay(12.0) == 3.0
    queue.offer(Item(13.0))
    assert queue.delay(13.0) == 0.0  # all three are back: nobody else is known
    assert len(queue.take(13.0)[0]) == 3


def test_the_window_does_not_wait_for_those_that_are_being_computed() -> None:
    queue = batcher(size=4, window_s=5.0)
    for _ in range(3):
        queue.offer(Item(0.0))
    queue.take(0.0)  # all three run on another worker
    queue.offer(Item(1.0))
    assert queue.delay(1.0) == 0.0


def with_company(*items: Item) -> Batcher[Item]:
    """A queue with a long window in which `items` wait, and others are known to come."""
    queue = batcher(size=8, window_s=5.0)
    for _ in range(4):
        queue.offer(Item(0.0))
    queue.take(0.0)
    queue.finish(4)
    for item in items:
        queue.offer(item)
    return queue


def test_r42_nobody_waits_for_company_until_it_is_too_late_to_be_answered() -> None:
    queue = with_company(Item(10.0), Item(10.0, deadline=12.0))
    assert queue.delay(10.0, 0.5) == 1.5  # a batch takes half a second
    assert queue.delay(11.5, 0.5) == 0.0
    assert with_company(Item(10.0, deadline=40.0)).delay(10.0, 0.5) == 5.0


def test_who_is_too_late_at_any_rate_waits_for_half_of_its_time() -> None:
    queue = with_company(Item(10.0, deadline=12.0))
    assert queue.delay(10.0, 3.0) == 1.0
    assert queue.delay(11.0, 3.0) == 0.0


def test_the_deadline_of_one_that_left_hurries_nobody() -> None:
    hurried = Item(10.0, deadline=11.0)
    queue = with_company(Item(10.0), hurried)
    queue.leave(hurried)
    assert queue.delay(10.0, 0.5) == 5.0


def test_jobs_that_were_never_started_are_first_in_line_again() -> None:
    queue = batcher(size=2)
    items = [Item(float(i)) for i in range(4)]
    for item in items:
        queue.offer(item)
    taken, _ = queue.take(5.0)
    queue.put_back(taken)
    assert (queue.waiting, queue.running) == (4, 0)
    assert queue.take(5.0)[0] == items[:2]


ACT = st.sampled_from(["offer", "leave", "take", "finish", "expire", "tick"])
ACTS = st.lists(
    st.tuples(ACT, st.integers(0, 7)),
    max_size=120,
)


@given(ACTS, st.integers(1, 5), st.sampled_from([0.0, 0.5]))
def test_r47_every_request_ends_once_in_order_whatever_happens(
    acts: list[tuple[str, int]], size: int, window_s: float
) -> None:
    queue, now, taken_in, ended = batcher(size, 6, window_s), 0.0, [], []
    for act, number in acts:
        waiting = [item for item in taken_in if item not in ended]
        if act == "offer":
            item = Item(now, deadline=now + number if number else inf)
            if offered(queue, item):
                taken_in.append(item)
            else:
                assert len(waiting) >= 6
        elif act == "leave" and waiting:
            leaver = waiting[number % len(waiting)]
            queue.leave(leaver)
            ended.append(leaver)
        elif act == "take":
            delay = queue.delay(now)
            assert (delay is None) == (not waiting)
            if delay:
                assert delay <= window_s
            batch, expired = queue.take(now)
            assert len(batch) <= size
            assert all(item.deadline > now for item in batch)
            assert all(item.deadline <= now for item in expired)
            assert [item for item in waiting if item in batch] == batch
            ended += batch + expired
        elif act == "finish" and queue.running:
            queue.finish(1)
        elif act == "expire":
            ended += queue.expire(now)
        elif act == "tick":
            now += 0.25 * number
        assert queue.waiting == len([i for i in taken_in if i not in ended])
    assert len(ended) == len(set(map(id, ended)))


@pytest.mark.parametrize("when", [0.0, 0.4, 1.9])
def test_r47_nobody_waits_longer_than_the_window(when: float) -> None:
    queue = batcher(size=100, window_s=2.0)
    for _ in range(50):
        queue.offer(Item(0.0))
    queue.take(0.0)
    queue.finish(50)
    queue.offer(Item(100.0))
    queue.offer(Item(100.0 + when))
    assert queue.delay(100.0 + when) == pytest.approx(2.0 - when)
    assert queue.delay(102.0) == 0.0

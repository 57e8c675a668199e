"""Deadlines fire late rather than early, move for nothing, and keep nobody who is over."""

import weakref
from collections.abc import Callable

from gateway.dataplane.deadlines import NEVER, TICK_S, Timed, Wheel


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call = at, call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Clock:
    """A loop's timers and its time, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def run(self, until: float) -> None:
        while due := [each for each in self.timers if each.at <= until and not each.is_cancelled]:
            first = min(due, key=lambda each: each.at)
            self.timers.remove(first)
            self.now = max(self.now, first.at)
            first.call()
        self.now = until


class Item(Timed):
    """Notes when it expired, and may then do something."""

    def __init__(self, then: Callable[[float], None] = lambda now: None) -> None:
        super().__init__()
        self.fired: list[float] = []
        self.then = then

    def expired(self, now: float) -> None:
        self.fired.append(now)
        self.then(now)


def make() -> tuple[Wheel, Clock]:
    clock = Clock()
    return Wheel(clock, clock.time), clock


def test_a_deadline_fires_once_and_never_early() -> None:
    wheel, clock = make()
    items = [Item() for _ in range(50)]
    for number, item in enumerate(items):
        wheel.set(item, 1000.0 + number * 0.013)
    clock.run(1002.0)
    for number, item in enumerate(items):
        due = 1000.0 + number * 0.013
        assert len(item.fired) == 1
        assert due <= item.fired[0] <= due + TICK_S + 0.002
        assert item.deadline == NEVER


def test_a_deadline_that_moved_later_fires_later_and_one_that_moved_earlier_earlier() -> None:
    wheel, clock = make()
    later, earlier = Item(), Item()
    wheel.set(later, 1001.0)
    wheel.set(later, 1005.0)
    wheel.set(earlier, 1009.0)
    wheel.set(earlier, 1002.0)
    clock.run(1004.9)
    assert later.fired == []
    assert len(earlier.fired) == 1
    clock.run(1020.0)
    assert len(later.fired) == len(earlier.fired) == 1


def test_a_deadline_that_was_taken_back_does_not_fire() -> None:
    wheel, clock = make()
    item = Item()
    wheel.set(item, 1001.0)
    wheel.set(item, NEVER)
    clock.run(1100.0)
    assert item.fired == []


def test_what_is_over_is_not_kept_until_its_entry_would_come_up() -> None:
    wheel, clock = make()
    item = Item()
    wheel.set(item, 1120.0)
    wheel.set(item, 1030.0)
    gone = weakref.ref(item)
    wheel.drop(item)
    del item
    assert gone() is None
    clock.run(1200.0)


def test_what_was_dropped_can_be_set_again() -> None:
    wheel, clock = make()
    item = Item()
    wheel.set(item, 1001.0)
    wheel.drop(item)
    wheel.set(item, 1002.0)
    clock.run(1010.0)
    assert len(item.fired) == 1
    assert item.fired[0] >= 1002.0


def test_one_that_expires_may_drop_and_set_its_neighbours() -> None:
    wheel, clock = make()
    dropped, moved = Item(), Item()

    def meddle(now: float) -> None:
        wheel.drop(dropped)
        wheel.drop(moved)
        wheel.set(moved, now + 1.0)

    first = Item(meddle)
    for each in (first, dropped, moved):
        wheel.set(each, 1001.0)
    clock.run(1010.0)
    assert dropped.fired == []
    assert len(moved.fired) == 1
    assert moved.fired[0] >= 1002.0


def test_after_a_standstill_what_came_meanwhile_is_read_before_anything_expires() -> None:
    wheel, clock = make()
    heard, silent = Item(), Item()
    wheel.set(heard, 1001.0)
    wheel.set(silent, 1001.0)
    clock.now = 1003.0  # stopped, say; the loop runs its timers first, and then reads
    clock.run(1003.0)
    wheel.set(heard, 1004.0)
    clock.run(1003.5)
    assert heard.fired == []
    assert len(silent.fired) == 1
    clock.run(1010.0)
    assert len(heard.fired) == 1


def test_with_nothing_left_the_clock_is_asked_for_nothing() -> None:
    wheel, clock = make()
    item = Item()
    wheel.set(item, 1001.0)
    wheel.drop(item)
    clock.run(1002.0)
    assert [timer for timer in clock.timers if not timer.is_cancelled] == []


class Broken(Item):
    """Fails when its deadline passes, and perhaps again when it is told so."""

    def __init__(self, fails_again: bool = False) -> None:
        super().__init__()
        self.gave_up = 0
        self.fails_again = fails_again

    def expired(self, now: float) -> None:
        raise ValueError("a fault of ours")

    def give_up(self) -> None:
        self.gave_up += 1
        if self.fails_again:
            raise ValueError("another one")


def test_one_that_fails_draws_nobody_in_and_is_told() -> None:
    wheel, clock = make()
    items = [Item(), Broken(), Item(), Broken(fails_again=True), Item()]
    for item in items:
        wheel.set(item, 1001.0)
    later = Item()
    wheel.set(later, 1002.0)
    clock.run(1003.0)
    assert [len(item.fired) for item in items] == [1, 0, 1, 0, 1]
    assert [item.gave_up for item in items if isinstance(item, Broken)] == [1, 1]
    assert len(later.fired) == 1
    for item in items:
        wheel.set(item, 1004.0)
    clock.run(1005.0)
    assert [len(item.fired) for item in items] == [2, 0, 2, 0, 2]

"""When work that no client waits for is done: between clients' requests, and not much later."""

from collections.abc import Callable

from gateway.dataplane.idle_queue import MAX_WAIT_S, IdleQueue


class Loop:
    """Turns by hand: in each of them some time passes and what was to be called soon is called."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[Callable[[], None]] = []
        self.queue = IdleQueue(self._soon.append, lambda: self.now)
        self.done: list[str] = []

    def add(self, *names: str) -> None:
        for name in names:
            self.queue.add(lambda name=name: self.done.append(name))  # type: ignore[misc]

    def turn(self, requests: int = 0, seconds: float = 0.0001) -> list[str]:
        """What was done in one turn, before which so many clients' requests were sent on."""
        self.queue.sent += requests
        self.now += seconds
        self.done.clear()
        soon, self._soon[:] = list(self._soon), []
        for callback in soon:
            callback()
        return list(self.done)

    @property
    def is_asleep(self) -> bool:
        return not self._soon


def test_work_is_done_in_the_first_turn_without_a_clients_request() -> None:
    loop = Loop()
    loop.add("copy")
    assert loop.turn(requests=3) == []
    assert loop.turn(requests=1) == []
    assert loop.turn() == ["copy"]
    assert loop.is_asleep


def test_one_piece_is_done_in_a_turn_and_in_order() -> None:
    loop = Loop()
    loop.add("first", "second", "third")
    assert [loop.turn() for _ in range(3)] == [["first"], ["second"], ["third"]]
    assert loop.is_asleep


def test_a_worker_that_is_always_busy_does_it_after_the_longest_wait() -> None:
    loop = Loop()
    loop.add("copy", "another")
    turns = [loop.turn(requests=1, seconds=MAX_WAIT_S / 4) for _ in range(5)]
    assert turns == [[], [], [], ["copy"], ["another"]]


def test_what_is_added_by_work_waits_for_a_turn_of_its_own() -> None:
    loop = Loop()
    loop.queue.add(lambda: loop.add("again"))
    assert loop.turn() == []
    assert loop.turn() == ["again"]
    assert loop.is_asleep


def test_work_that_fails_keeps_nobody_from_what_comes_after_it() -> None:
    loop = Loop()
    loop.queue.add(lambda: [].pop())
    loop.add("after")
    try:
        loop.turn()
    except IndexError:
        pass
    assert loop.turn() == ["after"]

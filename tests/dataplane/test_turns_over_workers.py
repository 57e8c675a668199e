"""Whose turn the next permit is, over the queues of two workers."""

from collections import deque
from typing import Any

from gateway.core.errors import GatewayError
from gateway.core.shared_load import SharedQueue, lane_at, size
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.queue_turns import QueueTurns
from gateway.dataplane.waiter import Waiter

LANES = 2


class Asks(Waiter):
    """A request of a consumer, of which nothing but its turn is looked at."""

    def __init__(self, consumer: str) -> None:
        super().__init__()
        self._consumer = consumer

    @property
    def consumer(self) -> str:
        return self._consumer

    def begin(self, instance: LiveInstance, now: float) -> None: ...
    def move_on(self) -> None: ...
    def fail(self, fault: GatewayError) -> None: ...
    def expired(self, now: float) -> None: ...


class Worker:
    """One worker's queue; all have the same `cells`."""

    def __init__(self, cells: Any, lane: int) -> None:
        others = [lane_at(other) for other in range(LANES) if other != lane]
        self.shared = SharedQueue(cells, lane, others)
        self.turns = QueueTurns(self.shared)
        self.waiting: deque[Waiter] = deque()

    def comes(self, name: str, count: int = 1) -> None:
        for _ in range(count):
            self.turns.line_up(self.waiting, Asks(name))
            self._tell()

    def looks(self, now: float) -> bool:
        """Whether it would take room that there is; if so, it does."""
        self.turns.ahead(self.waiting, (), now)
        if self.turns.gives_way(self.waiting, now):
            return False
        self.turns.left(self.waiting.popleft())
        self._tell()
        return True

    def _tell(self) -> None:
        self.shared.tell(len(self.waiting), 0)
        self.turns.tell(self.waiting)


def workers() -> list[Worker]:
    cells = memoryview(bytearray(8 * size(LANES))).cast("d")
    return [Worker(cells, lane) for lane in range(LANES)]


def test_a_flood_leaves_the_next_permit_to_who_is_next_in_another_worker() -> None:
    flooded, other = workers()
    flooded.comes("flood", 20)
    assert flooded.looks(1.0), "nobody else waits"
    other.comes("polite", 3)
    other.turns.ahead(other.waiting, (), 2.0)  # finds no room, and says that it is next
    assert not flooded.looks(2.001)
    assert other.looks(2.002)
    now, taken = 3.0, ""
    while other.waiting:
        # Each looks a thousand times a second, the flooded one first.
        now += 0.001
        taken += "f" * flooded.looks(now)
        if other.waiting:
            taken += "p" * other.looks(now)
    assert taken in ("fpfp", "pfpf", "pfp"), "turns go round"


def test_who_no_longer_waits_holds_up_nobody() -> None:
    flooded, other = workers()
    flooded.comes("flood", 20)
    assert flooded.looks(1.0)
    other.comes("polite")
    other.turns.ahead(other.waiting, (), 2.0)
    other.waiting.clear()  # it has left
    assert not flooded.looks(2.005)
    assert flooded.looks(2.02)

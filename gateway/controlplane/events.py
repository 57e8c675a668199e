"""Who hears of what happened, now?

Events are small dicts with a `type` and a `time`. Subscribers that cannot keep up lose the
oldest ones and are told how many; nobody who publishes ever waits. The last ones are kept, so
that a stream that broke goes on where it was, and who comes late sees what happened; those of a
process before can be taken up. Nothing is kept for good: the history is the store's.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import dropwhile, islice
from typing import Any

Event = dict[str, Any]
KEPT = 1000
MAX_WAITING = 1000
"""As many events wait for a subscriber who does not read; then the oldest go."""


def utc_now(ago_s: float = 0.0) -> str:
    """The wall clock as people read it, now or so many seconds ago: UTC, ISO 8601, milliseconds."""
    then = datetime.now(UTC) - timedelta(seconds=ago_s)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Subscription:
    """One subscriber's events; iterate it until `close`. `begun` names the event before them."""

    def __init__(self, begun: str, closed: Callable[["Subscription"], None]) -> None:
        self.begun = begun
        self._events: deque[Event] = deque()
        self._lost = 0
        self._ready = asyncio.Event()
        self._closed = closed
        self._open = True

    def push(self, event: Event) -> None:
        if len(self._events) >= MAX_WAITING:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._ready.set()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        while not self._events and self._open:
            self._ready.clear()
            await self._ready.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            return _lost(lost)
        if self._events:
            return self._events.popleft()
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the iteration once what is there was read; a second call does nothing."""
        if self._open:
            self._open = False
            self._closed(self)
            self._ready.set()


class Events:
    """Hands each published event to every subscriber."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._subscriptions: set[Subscription] = set()
        self._kept: deque[Event] = deque(maxlen=kept)
        # Numbers begin anew with the process: the name tells its events from another's.
        self._name, self._number = secrets.token_hex(4), 0
        self._taken: dict[str, int] = {}  # id → number, of those of processes before

    def publish(self, event: Event) -> None:
        """Hands on `event` with its `id`, and the time of now if it has none. Never waits."""
        self._number += 1
        stamped = {"time": utc_now(), **event, "id": self._id(self._number)}
        self._kept.append(stamped)
        for subscription in self._subscriptions:
            subscription.push(stamped)

    def take_up(self, events: Iterable[Event], *, is_all: bool) -> None:
        """Goes on after those of a process before, which keep their ids. Unless that `is_all` that
        it published, an event of type `lost` follows them."""
        for event in events:
            self._number += 1
            self._taken[event["id"]] = self._number
            self._kept.append(event)
        if self._taken and not is_all:
            self.publish(_lost(None))

    @property
    def published(self) -> int:
        """How many events there were in all."""
        return self._number

    def since(self, published: int) -> list[Event]:
        """The events after the first `published` ones, as far as they are kept."""
        return list(islice(self._kept, max(0, len(self._kept) - (self._number - published)), None))

    def subscribe(self, after: str = "", *, last_s: float = 0.0) -> Subscription:
        """Everything that is published from now on, or since the event with the id `after`; where
        none is named, also what is kept of the last `last_s` seconds.

        What of it is no longer kept is told by an event `lost`, whose number is null where it
        cannot be known: the id is of a process of which nothing was taken up, or of none.
        """
        begun, first = self._number, list[Event]()
        known = self._place(after)
        if known is not None:
            begun, first = known, list(self._missed(known))
        elif after:
            first = [_lost(None)]
        elif last_s:
            since = utc_now(last_s)
            first = list(dropwhile(lambda event: event["time"] < since, self._kept))
            begun -= len(first)
        subscription = Subscription(self._said(begun), self._subscriptions.discard)
        for event in first:
            subscription.push(event)
        self._subscriptions.add(subscription)
        return subscription

    def _id(self, number: int) -> str:
        return f"{self._name}.{number}"

    def _said(self, number: int) -> str:
        """The id under which that event was told, which the processes after this one know too."""
        at = number - (self._number - len(self._kept)) - 1
        said: str = self._kept[at]["id"] if 0 <= at < len(self._kept) else self._id(number)
        return said

    def _place(self, after: str) -> int | None:
        """The number in the id `after`; None when it is no id of an event of ours."""
        name, _, number = after.partition(".")
        if name != self._name or not (number.isascii() and number.isdigit() and len(number) < 16):
            return self._taken.get(after)
        return int(number) if int(number) <= self._number else None

    def _missed(self, number: int) -> Iterator[Event]:
        missed = self._number - number
        if missed > len(self._kept):
            yield _lost(missed - len(self._kept))
        yield from self.since(number)

    def close(self) -> None:
        """Ends every subscription."""
        for subscription in list(self._subscriptions):
            subscription.close()


def _lost(events: int | None) -> Event:
    return {"type": "lost", "time": utc_now(), "events": events}

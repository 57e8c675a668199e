"""Who hears of what happened, now?

Events are small dicts with a `type` and a `time`. Subscribers that cannot keep up lose the
oldest ones and are told how many; nobody who publishes ever waits. Nothing is kept here for
later: the history is the store's.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]


def utc_now() -> str:
    """The wall clock as people read it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Subscription:
    """One subscriber's events; iterate it until `close`."""

    def __init__(self, limit: int, closed: Callable[["Subscription"], None]) -> None:
        self._events: deque[Event] = deque()
        self._limit = limit
        self._lost = 0
        self._ready = asyncio.Event()
        self._closed = closed
        self._open = True

    def push(self, event: Event) -> None:
        if len(self._events) >= self._limit:
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
            return {"type": "lost", "time": utc_now(), "events": lost}
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

    def __init__(self, *, limit: int = 1000) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription] = set()

    def publish(self, event: Event) -> None:
        """Hands on `event`, with the time of now if it has none. Never waits."""
        stamped = event if "time" in event else {**event, "time": utc_now()}
        for subscription in self._subscriptions:
            subscription.push(stamped)

    def subscribe(self) -> Subscription:
        """Everything that is published from now on."""
        subscription = Subscription(self._limit, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """Ends every subscription."""
        for subscription in list(self._subscriptions):
            subscription.close()

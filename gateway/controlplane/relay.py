"""What does each worker learn from the others?

Every worker sees a part of the traffic. What one finds out about an instance (it fails; it was
ejected; it has so many requests) is passed on to all others, so that N workers behave as one
would. Nothing is decided here.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from gateway.channel import Channel

LOADS_TOGETHER_S = 0.05

Words = Mapping[str, Mapping[str, str]]


class Link(Protocol):
    """One worker's channel and what it has in flight."""

    channel: Channel
    in_flight: Mapping[str, Mapping[str, int]]


class Relay:
    """Passes on ejections and loads between `links()`. `clock` gives monotonic seconds."""

    def __init__(self, links: Callable[[], Sequence[Link]], clock: Callable[[], float]) -> None:
        self._links, self._clock = links, clock
        self._ejections: dict[tuple[str, str], tuple[float, int]] = {}
        self._loads_due = False

    def ejected(self) -> dict[tuple[str, str], float]:
        """Seconds left per ejected (backend, address)."""
        now = self._clock()
        return {key: until - now for key, (until, _) in self._ejections.items() if until > now}

    def take_ejections(self, link: Link, ejections: Sequence[Sequence[Any]]) -> None:
        """`link` ejected some, or took them back (0 seconds): all others follow."""
        now = self._clock()
        for backend, address, seconds, times in ejections:
            self._ejections[backend, address] = (now + seconds, times)
        self.pass_on(link, {"type": "ejections", "ejections": ejections})

    def pass_on(self, link: Link, message: Mapping[str, Any]) -> None:
        """What `link` says is for all others, as it is."""
        for other in self._links():
            if other is not link:
                other.channel.send_soon(message)

    def recovered(self, before: Words, words: Words) -> list[list[Any]]:
        """The ejections that end because the probes saw their instances come back (0 seconds):
        every worker takes those back by itself."""
        back = [
            (backend, address)
            for backend, address in self.ejected()
            if words.get(backend, {}).get(address) == "up"
            and before.get(backend, {}).get(address) != "up"
        ]
        for key in back:
            del self._ejections[key]
        return [[*key, 0.0, 0] for key in back]

    def ejections_message(self) -> dict[str, Any] | None:
        """What a worker that comes now has to know; None when nobody is ejected."""
        now = self._clock()
        self._ejections = {k: v for k, v in self._ejections.items() if v[0] > now}
        left = [[b, a, until - now, times] for (b, a), (until, times) in self._ejections.items()]
        return {"type": "ejections", "ejections": left} if left else None

    def share_loads(self) -> None:
        """Tells each worker what all others have in flight, soon and once for many changes."""
        if not self._loads_due:
            self._loads_due = True
            asyncio.get_running_loop().call_later(LOADS_TOGETHER_S, self._send_loads)

    def _send_loads(self) -> None:
        self._loads_due = False
        links = self._links()
        if len(links) > 1:
            for link in links:
                others = (other.in_flight for other in links if other is not link)
                link.channel.send_soon({"type": "loads", "in_flight": add_loads(others)})


def add_loads(loads: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """The sums per backend and address."""
    sums: dict[str, dict[str, int]] = {}
    for load in loads:
        for backend, addresses in load.items():
            into = sums.setdefault(backend, {})
            for address, count in addresses.items():
                into[address] = into.get(address, 0) + count
    return sums

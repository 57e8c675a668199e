"""How do requests follow a fleet's instances, whose addresses are in no document?

The fleet tells where a backend's instances are; workers are told beside the table. New ones first,
known to be well; then those that go lose their place, and the fleet hears of it only once no
worker has a request there: nothing is stopped in flight.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gateway.controlplane.watch.resolver import Endpoints
from gateway.controlplane.workers import Workers
from gateway.core.placement import FLEET, addresses
from gateway.core.table import Table
from gateway.wire.line import Endpoints as PlacedMessage
from gateway.wire.line import Fleet, Settled

LOOK_S = 0.05
MAX_LOOK_S = 0.5


class FleetPlaces:
    """Keeps the endpoints of what a fleet has true. `known()` are those of all names, and
    `set_fleet(backend, url, addresses)` changes them; `expect` says of one that it is well, `learn`
    asks it where its model answers, `in_flight()` counts requests by backend and address, and
    `tell` reaches the fleet."""

    def __init__(
        self,
        workers: Workers,
        *,
        known: Callable[[], Endpoints],
        set_fleet: Callable[[str, str, Sequence[str]], None],
        expect: Callable[[str, str], None],
        learn: Callable[[str, str], Awaitable[None]],
        in_flight: Callable[[], Mapping[str, Mapping[str, int]]],
        tell: Callable[[Settled], None],
    ) -> None:
        self._workers, self._known, self._set_fleet = workers, known, set_fleet
        self._expect, self._learn, self._in_flight, self._tell = expect, learn, in_flight, tell
        self._newest: dict[str, int] = {}
        self._leaving: dict[str, set[str]] = {}  # lost their place, and may have requests still
        self._moving: dict[str, int] = {}

    def begin(self, placed: Mapping[str, Sequence[str]], table: Table) -> None:
        """What was started before there was a gateway, as URLs by backend."""
        for name, urls in placed.items():
            backend = table.backends.get(name)
            if backend is not None and any(each.fleet for each in backend.instances):
                for address in addresses(urls):
                    self._expect(name, address)
                self._move(name, addresses(urls))

    def take(self, told: Fleet) -> None:
        """What the fleet has, of backends whose moves nobody told us of: it was before we came, or
        was an edit. Of the others a report may be older than the last move."""
        backends = {
            n: each for n, each in told["backends"].items() if each["addresses"] is not None
        }
        for name in self._newest.keys() - backends.keys():
            if not self._moving.get(name):
                del self._newest[name]
        for name, backend in backends.items():
            here = backend["addresses"] or ()
            if name not in self._newest:
                for address in set(here) - set(self._at(name)):
                    self._expect(name, address)
                self._move(name, here)

    async def place(self, message: PlacedMessage) -> None:
        """Lets requests follow to where `message` says, and answers once none is anywhere else,
        unless another message for the backend came first."""
        name, wanted = message["backend"], list(message["addresses"])
        number = self._newest[name] = self._newest.get(name, 0) + 1
        self._moving[name] = self._moving.get(name, 0) + 1
        try:
            before = self._at(name)
            for address in [each for each in wanted if each not in before]:
                self._expect(name, address)
                await self._learn(name, address)
            if self._newest[name] != number:
                return
            self._move(name, [*before, *(each for each in wanted if each not in before)])
            await self._workers.look(reports=False)
            if self._newest[name] != number:
                return
            self._move(name, wanted)
            leaving = self._leaving.setdefault(name, set())
            leaving |= set(before)
            leaving -= set(wanted)
            if await self._nothing_in_flight(name, leaving, number):
                leaving.clear()
                settled: Settled = {"type": "settled", "backend": name, "addresses": wanted}
                self._tell(settled)
        finally:
            self._moving[name] -= 1

    async def _nothing_in_flight(self, name: str, gone: set[str], number: int) -> bool:
        """Returns once no worker has a request at what is `gone`; False: that is asked no more. One
        that does not say what it has may have any."""
        pause_s = LOOK_S
        while True:
            have_said = await self._workers.look(reports=False)
            if self._newest[name] != number:
                return False
            here = self._in_flight().get(name, {})
            if have_said and not any(here.get(address) for address in gone):
                return True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_LOOK_S)

    def _at(self, name: str) -> list[str]:
        return list(self._known().get(name, {}).get(f"{FLEET}{name}", ()))

    def _move(self, name: str, addresses: Sequence[str]) -> None:
        if list(addresses) != self._at(name):
            self._set_fleet(name, f"{FLEET}{name}", addresses)
            self._workers.tell_health([name])

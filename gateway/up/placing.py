"""How does whoever sends requests learn where instances are?

By an edit of the table that is asked for, or, for those whose addresses are in no document, by a
stream of places. Each is asked for once, until it is answered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from gateway.up.desired import Desired
from gateway.up.fleet import Placed
from gateway.up.starting import url_of
from gateway.wire.line import ToControl


class Places:
    """The places that were asked for and not answered yet, of what is `desired`."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self._edits: set[str] = set()
        self._told: dict[str, tuple[str, ...]] = {}
        self._moves: asyncio.Queue[Placed] = asyncio.Queue()

    async def stream(self) -> AsyncIterator[Placed]:
        """Places that are in no document."""
        while True:
            yield await self._moves.get()

    def begin(self) -> None:
        """Nothing that was asked for is answered any more: it is asked for anew."""
        self._edits.clear()
        self._told.clear()

    def settled(self, backend: str, addresses: tuple[str, ...]) -> None:
        """Requests of `backend` go there now."""
        self._told.pop(backend, None)
        self._desired.placed(backend, addresses)

    def ask(
        self, backend: str, addresses: tuple[str, ...], tell: Callable[[ToControl], None]
    ) -> None:
        """Requests of `backend` shall go to `addresses`."""
        if backend in self._desired.beside:
            if self._told.get(backend) != addresses:
                self._told[backend] = addresses
                self._moves.put_nowait(Placed(backend, addresses))
        elif backend not in self._edits:
            self._edits.add(backend)
            urls = [url_of(self._desired.specs[backend], address) for address in addresses]
            version = self._desired.version(backend)
            tell({"type": "place", "backend": backend, "version": version, "urls": urls})

    def stay(self, moving: set[str], tell: Callable[[ToControl], None]) -> None:
        """Asks again for places that are to stay after all, while workers still let go of them, but
        not for backends that are `moving`."""
        for name, told in list(self._told.items()):
            asked = self._desired.wanted.get(name)
            if asked is not None and name not in moving and set(told) != set(asked.in_force):
                self.ask(name, asked.in_force, tell)

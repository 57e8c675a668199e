"""Who starts instances, and says where they are?

What is asked of any fleet, on one machine or on many: it is told what shall run, and tells where
that is. The one on this machine is `gateway.up.local_fleet`. A fleet's word says which addresses
there are; whether an instance answers there is asked by others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.wire.line import ToControl


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall run: the backends with `serve` of the table at `revision`, as they are written."""

    revision: int
    backends: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Placed:
    """All `addresses`, as `host:port`, that requests of `backend` may go to from now on."""

    backend: str
    addresses: tuple[str, ...]


class Fleet(Protocol):
    """Holds instances to a plan."""

    def ensure(self, plan: Plan) -> None:
        """From now on that is to run, and nothing else; returns at once."""

    def endpoints(self) -> AsyncIterator[Placed]:
        """Where the instances of a backend are, each time that is another place: of those backends
        whose addresses are in no document."""

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends all of it: asked to at first, killed when the time is over, or in a `hurry`."""


async def follow(fleet: Fleet, tell: Callable[[ToControl], None]) -> None:
    """Tells the control process where instances are, until it is cancelled."""
    async for placed in fleet.endpoints():
        tell({"type": "endpoints", "backend": placed.backend, "addresses": list(placed.addresses)})

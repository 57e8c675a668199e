"""Who starts instances, and says where they are?

What is asked of any fleet, on one machine or on many: it is told what shall run, and tells where
that is. The one on this machine is `gateway.up.local_fleet`. A fleet's word says which addresses
there are; whether an instance answers there is asked by others.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gateway.wire.line import ForFleet, ToControl


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall run: the backends with `serve` of the table at `revision`, as they are written.
    `out`: backend → those of its addresses that answer nothing now; where some go, they do."""

    revision: int
    backends: Mapping[str, Mapping[str, Any]]
    out: Mapping[str, Sequence[str]] = field(default_factory=dict)


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


class Started(Fleet, Protocol):
    """A fleet as `headgate up` starts one, and listens for it to the control process."""

    @property
    def placed(self) -> dict[str, list[str]]:
        """Backend → the URLs of its instances."""

    @property
    def folders(self) -> dict[str, Path]:
        """Backend → the folder that its code is looked for in."""

    async def start(
        self, specs: Mapping[str, Mapping[str, Any]], is_live: Callable[[str], bool]
    ) -> None:
        """Returns when all that can be is ready; StartError when one cannot be. A backend that
        `is_live`, as an edit and not the file made it, is only said."""

    def attach(self, tell: Callable[[ToControl], None]) -> None:
        """From now on `tell` reaches whoever edits the table."""

    def take(self, message: ForFleet) -> None:
        """What the control process has to say."""

    def renew(self, names: Iterable[str]) -> None:
        """Replaces the processes of each of these backends, none sooner than its successor is
        ready."""


async def follow(fleet: Fleet, tell: Callable[[ToControl], None]) -> None:
    """Tells the control process where instances are, until it is cancelled."""
    async for placed in fleet.endpoints():
        tell({"type": "endpoints", "backend": placed.backend, "addresses": list(placed.addresses)})

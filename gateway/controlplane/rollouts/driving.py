"""Who drives the rollout of a route, where several gateways have one table?

Whoever holds the word for that route: it counts, judges and moves; the others show what it wrote
down, and one of them goes on when it is lost.
"""

from typing import Protocol


class Driver(Protocol):
    """What a gateway drives."""

    def drives(self, route: str) -> bool:
        """Whether this gateway drives the rollout of `route`."""

    async def claim(self, route: str) -> None:
        """Has this gateway drive it from now on; Conflict where another one does."""


class Alone:
    """A `Driver` of a gateway that shares its table with nobody."""

    def drives(self, route: str) -> bool:
        return True

    async def claim(self, route: str) -> None:
        """There is nobody to ask."""

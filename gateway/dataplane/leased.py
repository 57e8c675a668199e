"""A request where a gateway that has lost its store refuses (`store_lost: refuse`).

The walk is the same; before the table is read the lease is looked at, by the clock and not by what
was told last: a process that was stopped for a while knows nothing of the time. Nobody else pays
for it, as these classes are used only where it is asked for.
"""

from gateway.core.errors import NoRoom
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.plane import Plane
from gateway.dataplane.replying import LOST
from gateway.dataplane.traced import TracedExchange


def check(plane: Plane) -> None:
    """Raises NoRoom once edits are acknowledged without this gateway."""
    if plane.lease_until < plane.now():
        raise NoRoom(LOST, "store_lost")


class LeasedExchange(Exchange):
    """An `Exchange` that is decided under a lease."""

    __slots__ = ()

    def _check_early(self) -> None:
        check(self.plane)
        super()._check_early()

    def _decide(self) -> None:
        check(self.plane)
        super()._decide()


class LeasedTracedExchange(TracedExchange):
    """The same, watched."""

    __slots__ = ()

    def _check_early(self) -> None:
        check(self.plane)
        super()._check_early()

    def _decide(self) -> None:
        check(self.plane)
        super()._decide()

"""Who takes part in an edit, beside the publisher: what it asks of each of them."""

from typing import Protocol

from gateway.controlplane.published import Everywhere
from gateway.core.table import Table


class Workers(Protocol):
    """The data-plane processes."""

    async def put_in_force(self, table: Table) -> int:
        """Makes `table` the one that decides every new request, on all workers.

        The number of workers that said so; a silent one is replaced first. NotInForce when one
        can neither be heard nor be replaced.
        """


class Gateways(Protocol):
    """The gateways that share the table."""

    def check(self) -> None:
        """Raises Unavailable while this one could not say what the others decide by; NotYet where
        it has just started, and `settled` is worth awaiting."""

    async def settled(self) -> None:
        """Returns once this one is a gateway among others for the first time, or it is known why
        not. It takes an announcement, which is made under the lock of the publisher: not for use
        there."""

    def announce(self, table: Table, workers: int, *, awaited: bool = True) -> None:
        """All workers of this gateway decide by `table` now. No other gateway waits to hear that of
        what was edited here: unless `awaited`, it may be said together with what comes next."""

    def withdraw(self, why: str) -> None:
        """Gives up the lease, as this gateway cannot take over what the others decide by."""

    async def in_force(self, revision: int) -> Everywhere:
        """Returns when every gateway that holds its lease decides by `revision` or a later one;
        NotInForce when that cannot be said."""


class InstanceWatch(Protocol):
    """Whoever probes and resolves the instances."""

    def sync(self, table: Table) -> None:
        """Keeps, adds and drops instances so that exactly those of `table` are watched."""

    async def met(self, previous: Table, table: Table) -> None:
        """Returns once a backend whose instances `table` replaces all, and one of which is well by
        now, has one that is well again, or none of the new ones is, or there was long enough time
        to ask them."""

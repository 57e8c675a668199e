"""How is a move of a rollout made true, whatever dies meanwhile?

What is wanted is written down, then made an ordinary edit by the publisher, then written down as
done, then told. Whoever comes after a crash finds the wish, with the old split or the new one, and
makes it true. Which move it is was decided elsewhere.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.keeping import Keeper
from gateway.controlplane.rollouts.progress import Move, Progress
from gateway.controlplane.store.store import DiskRefused, StateRefused, StoreError
from gateway.core import edits
from gateway.core.faults import Conflict, Invalid
from gateway.core.rollout import BACK
from gateway.core.table import Document, Table
from gateway.processes.tasks import told

log = logging.getLogger(__name__)
WHO = "rollout"
KEEP_S = 1.0  # how old what is kept of the evidence may be


class Mover:
    """All rollouts by route, and what carries them out. `is_stale`: more is known of one than is
    kept; `verdicts`: (route, guard, verdict) → how often."""

    def __init__(
        self, publisher: Publisher, keeper: Keeper, events: Events, clock: Callable[[], float]
    ) -> None:
        self._publisher, self._keeper, self._events = publisher, keeper, events
        self._clock = clock
        self._kept_at = clock()
        self.is_stale = False
        self.verdicts: Counter[tuple[str, ...]] = Counter()
        self.all: dict[str, Progress] = {}
        for route, kept in keeper.load().items():
            try:
                self.all[route] = Progress.from_json(route, kept)
            except (Invalid, KeyError, TypeError, ValueError) as error:
                raise StateRefused(
                    f"the rollout kept of route {route!r} cannot be read ({told(error)}); it was"
                    " kept as it is"
                ) from None

    async def make(self, it: Progress, move: Move) -> None:
        """Decides `move`, writes it down and carries it out."""
        it.move = move
        await self.carry_out(it)

    async def carry_out(self, it: Progress) -> None:
        """Makes true what was decided: durable as a wish, then as an edit, then as a fact. Of what
        raises nothing has happened: a fact that cannot be written is one all the same, and written
        later; until then whoever comes finds the wish, which leads there. What goes back has room
        on a full disk."""
        move = it.move
        assert move is not None
        try:
            revision = await self._decide(it, move)
        except DiskRefused:
            if move.state not in BACK or not await asyncio.to_thread(self._keeper.make_room):
                raise
            revision = await self._decide(it, move)
        it.done(move, utc_now(), revision)
        it.held_from = self._clock()
        if not it.is_live:
            self.verdicts[it.route, "", it.state] += 1
        await self._keep_soon()
        self.tell(it, move.why)

    async def _decide(self, it: Progress, move: Move) -> int | None:
        """Makes `move` a wish, and then an edit, of which this is the revision."""
        await self.keep()
        return None if move.weights is None else await self._edit(it, move)

    async def _edit(self, it: Progress, move: Move) -> int:
        """Brings the split of `move` about; the revision in which it is in force."""
        weights, known = move.weights, [it.weights, move.weights]
        assert weights is not None

        def edited(document: Document) -> Document:
            spec = edits.entry_of(document, "routes", it.route)
            if split_of(document, it.route) == weights:
                return document  # stored before, and in force once this returns
            if split_of(document, it.route) not in known:
                raise Conflict(f"the split of {it.route!r} was edited meanwhile: look again")
            return edits.put(document, "routes", it.route, {**spec, "split": dict(weights)})

        total = sum(weights.values()) or 1
        share = 100 * weights.get(it.plan.to, 0) / total
        why = f"rollout to {it.plan.to}, {move.state.replace('_', ' ')} at {share:g} %: {move.why}"
        published = await self._publisher.publish(edited, who=WHO, why=why)
        return published.revision

    def tell(self, it: Progress, why: str) -> None:
        """Says in the log and to those who follow the events where a rollout is, and why."""
        log.info(f"rollout of {it.plan.to} on {it.route}: {it.state}, step {it.step + 1}: {why}")
        self._events.publish(
            {
                "type": "rollout",
                "route": it.route,
                "to": it.plan.to,
                "state": it.state,
                "step": it.step + 1,
                "share": it.share,
                "who": WHO,
                "why": why,
            }
        )

    async def keep(self) -> None:
        """Writes all of them down; StoreError where that cannot be. One that has ended goes with
        its route."""
        self.forget_gone(self._publisher.table)
        kept = {route: it.as_json() for route, it in self.all.items()}
        await asyncio.to_thread(self._keeper.keep, kept)
        self._kept_at, self.is_stale = self._clock(), False

    def forget_gone(self, table: Table) -> bool:
        """Forgets those that have ended and whose route is not in `table`; whether any was."""
        gone = [
            name for name, it in self.all.items() if not it.is_live and name not in table.routes
        ]
        for route in gone:
            del self.all[route]
        return bool(gone)

    async def keep_up(self, now: float) -> None:
        """Writes them down where that is due; what cannot be written is written later."""
        if self.is_stale and now - self._kept_at >= KEEP_S:
            await self._keep_soon()

    async def _keep_soon(self) -> None:
        """Writes them down, now or once that can be."""
        try:
            await self.keep()
        except StoreError as error:
            log.error(f"rollouts: {error}")
            self._kept_at, self.is_stale = self._clock(), True


def split_of(document: Document, route: str) -> Mapping[str, int] | None:
    """The split of `route`; None when there is no such route."""
    spec = (document.get("routes") or {}).get(route)
    return None if spec is None else spec.get("split")

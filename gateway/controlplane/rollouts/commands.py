"""What do operators tell a rollout?

To begin, to pause, to go on, to go back, and to be forgotten. Each command is judged, written down
and in force before it is answered, and one that is refused has changed nothing. What time does to
a rollout is `controller`.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.controlplane.events import utc_now
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts import plans
from gateway.controlplane.rollouts.controller import Rollouts
from gateway.controlplane.rollouts.progress import Move, Progress
from gateway.controlplane.store.store import StoreError
from gateway.core import edits
from gateway.core.faults import Conflict
from gateway.core.rollout import NotNow, Plan, Signal
from gateway.processes.tasks import Tasks, told

log = logging.getLogger(__name__)
COMMANDS: dict[str, Signal] = {
    "pause": "pause",
    "resume": "resume",
    "promote": "promote",
    "approve": "approve",
    "abort": "abort",
}
OVERRULE = ("resume", "promote", "approve")
"""Who says so knows which guards have failed, and goes on."""
Json = Any


@dataclass(frozen=True, slots=True)
class How:
    """How something is asked for: why, whether it is but tried, and a `guard` that is given the
    rollout there is, when all else is well, and raises to refuse."""

    why: str = ""
    dry_run: bool = False
    guard: Callable[[Json | None], None] = lambda current: None


PLAIN = How()


async def _at_once(_: str) -> None:
    """No backend is waited for."""


class Commands:
    """What `rollouts` are told. `ready` loads a backend that starts on demand, and returns once it
    is known whether one of its instances is well."""

    def __init__(
        self,
        rollouts: Rollouts,
        publisher: Publisher,
        *,
        ready: Callable[[str], Awaitable[None]] = _at_once,
    ) -> None:
        self._rollouts, self._publisher, self._ready = rollouts, publisher, ready
        self._mover, self._driver = rollouts.mover, rollouts.driver
        self._all = rollouts.mover.all
        self._own = Tasks(_note_failure)

    async def begin(self, route: str, said: Mapping[str, Json], how: How = PLAIN) -> Json:
        """A new rollout, whose first step is in force; one that is but tried has its plan beside.

        Conflict while one runs, Invalid for a plan that cannot be, Missing for no such route, and
        whatever the publisher raises; then nothing changed.
        """
        before = self._all.get(route)
        if not how.dry_run and (before is None or not before.is_live):
            plan = self._plan(route, said)
            how.guard(None if before is None else self._rollouts.told(before))
            await self._ready(plan.to)  # nobody waits at the first step
        return await self._finish(f"to begin a rollout on {route}", self._begin(route, said, how))

    async def _begin(self, route: str, said: Mapping[str, Json], how: How) -> Json:
        async with self._rollouts.lock:
            before = self._all.get(route)
            start = edits.weights_of(self._publisher.table.document, route)
            if before is not None and before.is_live:
                raise Conflict(f"a rollout of {before.plan.to!r} runs on route {route!r} already")
            if how.why and "why" not in said:
                said = {**said, "why": how.why}
            plan = self._plan(route, said)
            it = Progress(
                secrets.token_hex(6), route, said, plan, start, utc_now(),
                warming=plan.warmup > 0,
            )  # fmt: skip
            self._rollouts.begin_tallies(it)
            it.move = Move("running", 0, plan.why or "begun", it.weights_of(0, "running"))
            how.guard(None if before is None else self._rollouts.told(before))
            if how.dry_run:
                it.done(it.move, it.started, None)
                return {**self._rollouts.told(it), "plan": plans.shown(plan)}
            await self._driver.claim(route)
            self._rollouts.add(it)
            try:
                await self._mover.carry_out(it)
            except NotInForce:
                raise  # durable: it goes on
            except Exception:
                await self._put_back(route, before)
                raise
            finally:
                self._rollouts.tell_workers()
                self._rollouts.stir()
            return self._rollouts.told(it)

    def _plan(self, route: str, said: Mapping[str, Json]) -> Plan:
        """The plan that `said` describes for the split of now; Invalid names all that is wrong."""
        table = self._publisher.table
        weights = edits.weights_of(table.document, route)
        empty = {name for name in weights if not table.backends[name].instances}
        return plans.read_plan(
            said, weights, lambda to: self._rollouts.is_compared(route, to), empty
        )

    async def _put_back(self, route: str, before: Progress | None) -> None:
        """A rollout that could not begin never was."""
        if before is None:
            del self._all[route]
        else:
            self._all[route] = before
        self._mover.is_stale = True
        with suppress(StoreError):
            await self._mover.keep()

    async def _finish(self, what: str, steps: Coroutine[Any, Any, Json]) -> Json:
        """The result of `steps`, which run to their end even if nobody waits for it."""
        return await asyncio.shield(self._own.run(what, steps))

    async def command(self, route: str, word: str, how: How = PLAIN) -> Json:
        """The rollout after one of COMMANDS, in force, or as it would be where that is but tried;
        Conflict where it means nothing now."""
        what = f"to {word} the rollout on {route}"
        return await self._finish(what, self._command(route, word, how))

    async def _command(self, route: str, word: str, how: How) -> Json:
        async with self._rollouts.lock:
            it = self._rollouts.of(route)
            try:
                move = it.moved(COMMANDS[word], how.why or f"{word} by an operator")
            except NotNow as refused:
                raise Conflict(f"route {route!r}: {refused}") from None
            how.guard(self._rollouts.told(it))
            if how.dry_run:
                return self._rollouts.told(it.if_done(move))
            await self._driver.claim(route)
            before = it.accepted
            if word in OVERRULE:
                it.accepted |= it.failed.keys()
            try:
                await self._mover.make(it, move)
            except NotInForce:
                raise  # durable: it goes on
            except Exception:
                it.move, it.accepted = None, before
                self._mover.is_stale = True  # what was refused is not to be found as a wish
                raise
            return self._rollouts.told(it)

    async def forget(self, route: str, how: How = PLAIN) -> Json:
        """What was known of a rollout that has ended; Conflict while it runs."""
        return await self._finish(f"to forget the rollout on {route}", self._forget(route, how))

    async def _forget(self, route: str, how: How) -> Json:
        async with self._rollouts.lock:
            it = self._rollouts.of(route)
            if it.is_live:
                raise Conflict(f"the rollout on route {route!r} is {it.state}: abort it first")
            shown = self._rollouts.told(it)
            how.guard(shown)
            if not how.dry_run:
                await self._driver.claim(route)
                del self._all[route]
                try:
                    await self._mover.keep()
                except BaseException:
                    self._all[route] = it
                    raise
            return shown


def _note_failure(name: str, error: Exception) -> None:
    """Whoever asked is told why, and may have left."""
    log.info(f"{name} was refused: {told(error)}")

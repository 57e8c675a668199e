"""Which rollouts are there, and what moves them?

A few times a second each rollout is looked at: what workers told, what guards make of it, who is
well; and operators tell it what to do. What follows is made true by `moving`. What is decided is
decided in `core.rollout` and `core.judging`.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts import plans
from gateway.controlplane.rollouts.agreeing import Ask
from gateway.controlplane.rollouts.driving import Alone, Driver
from gateway.controlplane.rollouts.keeping import Keeper
from gateway.controlplane.rollouts.moving import KEEP_S, WHO, Mover, split_of
from gateway.controlplane.rollouts.progress import Move, Progress
from gateway.controlplane.store.store import StoreError
from gateway.core import edits
from gateway.core.faults import Conflict, Invalid, Missing
from gateway.core.judging import evidence
from gateway.core.rollout import Guard, Judged, NotNow, Signal, passed, signal_of
from gateway.core.table import Document
from gateway.processes.tasks import Tasks, told
from gateway.wire.messages import JudgedMessage, Judging

log = logging.getLogger(__name__)
LOOK_S = 0.1
LONGEST_S = 1.0  # of a look: what took longer was no holding, nobody watched
COMMANDS: dict[str, Signal] = {
    "pause": "pause",
    "resume": "resume",
    "promote": "promote",
    "approve": "approve",
    "abort": "abort",
}
STEP = "headgate_rollout_step"
EVIDENCE = "headgate_rollout_evidence"
VERDICTS = "headgate_rollout_verdict_total"
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


async def _nobody_sleeps(_: str) -> None:
    """No backend starts on demand."""


class Rollouts:
    """All rollouts, at most one for each route.

    `tell` is given what workers are to do, whenever it changed; `effective` says which share of a
    route each backend gets after health; `driver` knows which are this gateway's to drive (all,
    where it is left out); `awake` loads a backend that starts on demand. `clock` gives monotonic
    seconds.
    """

    def __init__(
        self,
        publisher: Publisher,
        keeper: Keeper,
        events: Events,
        *,
        tell: Callable[[Mapping[str, Judging]], None] = lambda _: None,
        effective: Callable[[str], Mapping[str, float]] = lambda _: {},
        driver: Driver | None = None,
        agreement: Ask = lambda route, canary: None,
        awake: Callable[[str], Awaitable[None]] = _nobody_sleeps,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = agreement
        self._publisher = publisher
        self._tell, self._effective, self._clock = tell, effective, clock
        self._awake, self._driver = awake, driver or Alone()
        self._mover = Mover(publisher, keeper, events, clock)
        self._all = self._mover.all
        self._lock = asyncio.Lock()
        self._own = Tasks(_note_failure)
        self._stirred = asyncio.Event()
        self._looked_at = clock()
        self._was_well: set[str] = set()  # rollouts whose canary was seen to serve

    # -- what is asked

    def shown(self, route: str) -> Json:
        """The rollout of `route`; Missing where there is none."""
        return self._of(route).shown()

    def all_shown(self) -> dict[str, Json]:
        """Every rollout that is remembered, by route, with its plan."""
        return {
            route: {**it.shown(), "plan": plans.shown(it.plan)} for route, it in self._all.items()
        }

    def plan(self, route: str) -> Json:
        """Its plan, with what was left out filled in."""
        return plans.shown(self._of(route).plan)

    def allow(self, before: Document, after: Document, who: str) -> None:
        """Conflict where an edit by somebody else changes the split of a running rollout."""
        for route, it in self._all.items() if who != WHO else ():
            if it.is_live and split_of(before, route) != split_of(after, route):
                raise Conflict(
                    f"a rollout of {it.plan.to!r} runs on route {route!r} (step {it.step + 1} of"
                    f" {len(it.plan.steps)}) and its split is not to be edited: abort it first"
                )

    def canaries(self) -> list[str]:
        """The backends that running rollouts lead to."""
        return [it.plan.to for it in self._all.values() if it.is_live]

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Metric → labels → value."""
        steps: dict[tuple[str, ...], float] = {}
        found: dict[tuple[str, ...], float] = {}
        for route, it in self._all.items():
            steps[route, it.plan.to] = it.step + 1 if it.is_live else 0
            for guard, each in it.judge():
                found[route, guard.name] = evidence(each.log_evidence)
        return {STEP: steps, EVIDENCE: found}

    def verdicts(self) -> dict[tuple[str, ...], int]:
        """(route, guard, verdict) → how often; a rollout's end counts as of the guard ""."""
        return dict(self._mover.verdicts)

    # -- what is told

    async def begin(self, route: str, said: Mapping[str, Json], how: How = PLAIN) -> Json:
        """A new rollout, whose first step is in force.

        Conflict while one runs, Invalid for a plan that cannot be, Missing for no such route, and
        whatever the publisher raises; then nothing changed.
        """
        before = self._all.get(route)
        if not how.dry_run and (before is None or not before.is_live):
            start = edits.weights_of(self._publisher.table.document, route)
            await self._awake(plans.read_plan(said, start).to)  # nobody waits at the first step
        return await self._finish(self._begin(route, said, how))

    async def _begin(self, route: str, said: Mapping[str, Json], how: How) -> Json:
        async with self._lock:
            before = self._all.get(route)
            start = edits.weights_of(self._publisher.table.document, route)
            if before is not None and before.is_live:
                raise Conflict(f"a rollout of {before.plan.to!r} runs on route {route!r} already")
            if how.why and "why" not in said:
                said = {**said, "why": how.why}
            plan = plans.read_plan(said, start, lambda to: self._agreement(route, to) is not None)
            it = Progress(
                secrets.token_hex(6), route, said, plan, start, utc_now(),
                warming=plan.warmup > 0,
            )  # fmt: skip
            it.tallies.begin(self._clock())
            it.agreement.begin(self._agreement(route, plan.to))
            it.move = Move("running", 0, plan.why or "begun", it.weights_of(0, "running"))
            how.guard(None if before is None else before.shown())
            if how.dry_run:
                return it.shown()
            await self._driver.claim(route)
            self._all[route] = it
            self._was_well.add(it.id)
            self._tell_workers()  # before the first request that it decides
            try:
                await self._mover.carry_out(it)
            except NotInForce:
                raise  # durable: it goes on
            except Exception:
                await self._put_back(route, before)
                raise
            finally:
                self._tell_workers()
                self._stirred.set()
            return it.shown()

    async def _put_back(self, route: str, before: Progress | None) -> None:
        """A rollout that could not begin never was."""
        if before is None:
            del self._all[route]
        else:
            self._all[route] = before
        with suppress(StoreError):
            await self._mover.keep()

    async def _finish(self, steps: Coroutine[Any, Any, Json]) -> Json:
        """The result of `steps`, which run to their end even if nobody waits for it."""
        return await asyncio.shield(self._own.run("a rollout's command", steps))

    async def command(self, route: str, word: str, how: How = PLAIN) -> Json:
        """The rollout after one of COMMANDS, in force; Conflict where it means nothing now."""
        return await self._finish(self._command(route, word, how))

    async def _command(self, route: str, word: str, how: How) -> Json:
        async with self._lock:
            it = self._of(route)
            try:
                move = it.moved(COMMANDS[word], how.why or f"{word} by an operator")
            except NotNow as refused:
                raise Conflict(f"route {route!r}: {refused}") from None
            how.guard(it.shown())
            if how.dry_run:
                return it.shown()
            await self._driver.claim(route)
            try:
                await self._mover.make(it, move)
            except NotInForce:
                raise  # durable: it goes on
            except Exception:
                it.move = None
                raise
            if word in OVERRULE:
                it.accepted |= it.failed.keys()
            return it.shown()

    async def forget(self, route: str, how: How = PLAIN) -> Json:
        """What was known of a rollout that has ended; Conflict while it runs."""
        return await self._finish(self._forget(route, how))

    async def _forget(self, route: str, how: How) -> Json:
        async with self._lock:
            it = self._of(route)
            if it.is_live:
                raise Conflict(f"the rollout on route {route!r} is {it.state}: abort it first")
            shown = it.shown()
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

    def hear(self, told: JudgedMessage) -> None:
        """What a worker counted."""
        for it in self._all.values():
            if it.id == told["id"] and it.is_live:
                it.tallies.hear(told)
                self._mover.is_stale = True
                self._stirred.set()

    # -- what runs all the time

    async def run(self) -> None:
        """Takes up what was kept, then looks at every rollout until cancelled."""
        async with self._lock:
            self._looked_at = self._clock()
            for it in self._all.values():
                if it.is_live and self._driver.drives(it.route):
                    self._take_up(it)
            self._tell_workers()
        while True:
            if any(it.is_live for it in self._all.values()):
                await asyncio.sleep(LOOK_S)
            else:
                self._stirred.clear()
                await self._stirred.wait()
                self._looked_at = self._clock()
            async with self._lock:
                await self.look()

    async def follow(self, kept: Mapping[str, Json]) -> None:
        """Takes in what other gateways keep of the rollouts that they drive."""
        async with self._lock:
            for route in [each for each in self._all if each not in kept]:
                if not self._driver.drives(route):
                    del self._all[route]
            for route, each in kept.items():
                if not self._driver.drives(route):
                    self._all[route] = Progress.from_json(route, each)
            self._stirred.set()

    async def go_on(self, driven: Collection[str]) -> None:
        """Drives on what nobody drives: those that are live and none of `driven`."""
        for route in [each for each, it in self._all.items() if it.is_live and each not in driven]:
            if self._driver.drives(route):
                continue
            async with self._lock:
                with suppress(Conflict, StoreError):  # another gateway was quicker
                    await self._driver.claim(route)
                    self._take_up(self._all[route])
                    self._tell_workers()

    def _take_up(self, it: Progress) -> None:
        """Goes on with what another process began; a split that is none of its own is not fought
        for."""
        it.tallies.begin(self._clock())
        now = split_of(self._publisher.table.document, it.route)
        known = [it.weights, *([it.move.weights] if it.move else [])]
        if now not in known:
            # No edit: the split is what somebody wanted while nobody was here to refuse it.
            it.move = Move("aborted", it.step, "the split was edited while nothing ran")

    async def look(self) -> None:
        """One look at all of them; for use under the lock."""
        now = self._clock()
        passed_s = min(LONGEST_S, now - self._looked_at)
        self._looked_at = now
        for it in list(self._all.values()):
            if it.is_live and self._driver.drives(it.route):
                try:
                    await self._look_at(it, now, passed_s)
                except (Conflict, Missing) as error:
                    # Somebody had the split edited after all; it is no longer this rollout's.
                    it.move = Move("aborted", it.step, str(error))
                except (StoreError, NotInForce, Invalid) as error:
                    # What was decided stays decided, and is tried again.
                    log.error(f"rollout on {it.route}: {told(error)}; trying again")
                    await asyncio.sleep(KEEP_S)
        await self._mover.keep_up(now)
        self._tell_workers()

    async def _look_at(self, it: Progress, now: float, passed_s: float) -> None:
        if it.move is not None:
            await self._mover.carry_out(it)
            return
        if it.warming and it.tallies.warmed >= it.plan.warmup:
            it.warming, self._mover.is_stale = False, True
        for guard in it.plan.guards:
            if guard.name == "latency":
                it.tallies.learn(now, guard.slower_than)
            elif guard.name == "predictions":
                it.tallies.learn_numbers(now)
            elif guard.name == "agreement":
                is_news = it.agreement.hear(self._agreement(it.route, it.plan.to))
                self._mover.is_stale |= is_news
        guards = it.judge()
        for guard in it.note_failures(guards):
            self._note_failed(it, guard)
        signal, why = self._due(it, guards)
        if signal is None and it.state == "running":
            it.held_s += passed_s
            signal = passed(it.plan, it.step, it.held_s, it.requests, guards, it.accepted)
            why = self._why(it, guards)
        if signal is not None and not (signal == "hold" and it.state == "paused"):
            await self._mover.make(it, it.moved(signal, why))

    def _due(self, it: Progress, guards: list[tuple[Guard, Judged]]) -> tuple[Signal | None, str]:
        """What has to happen at once, whatever the state, and why."""
        shares = self._effective(it.route)
        if shares.get(it.plan.to):
            self._was_well.add(it.id)
        elif any(shares.values()) and it.id in self._was_well:
            return "fail", f"{it.plan.to} has no healthy instance"
        signal = signal_of(guards, it.accepted)
        acts = {"fail": "rollback", "hold": "hold"}.get(signal or "")
        why = "; ".join(
            it.failed[guard.name]
            for guard, _ in guards
            if guard.on_fail == acts and guard.name in it.failed
        )
        return signal, why

    def _why(self, it: Progress, guards: list[tuple[Guard, Judged]]) -> str:
        """With which evidence a step was passed."""
        found = ", ".join(
            f"{guard.name} E = {evidence(each.log_evidence):.3g}" for guard, each in guards
        )
        return f"{it.requests:,} requests at {it.share:g} % in {it.held_s:.0f} s: {found}"

    def _note_failed(self, it: Progress, guard: Guard) -> None:
        self._mover.is_stale = True
        self._mover.verdicts[it.route, guard.name, "failed"] += 1
        if guard.on_fail == "warn":
            self._mover.tell(it, it.failed[guard.name])

    def _tell_workers(self) -> None:
        drives = self._driver.drives
        judged = {r: it for r, it in self._all.items() if it.is_live and drives(r)}
        self._tell({route: it.judging() for route, it in judged.items()})

    def _of(self, route: str) -> Progress:
        edits.entry_of(self._publisher.table.document, "routes", route)  # or no such route
        found = self._all.get(route)
        if found is None:
            raise Missing(f"route {route!r} has no rollout")
        return found


def _note_failure(name: str, error: Exception) -> None:
    """Whoever asked is told why."""
    log.info(f"{name} was not carried out: {type(error).__name__}")

"""Which rollouts are there, and what moves them?

A few times a second each rollout is looked at: what workers told, what guards make of it, who is
well. What follows is made true by `moving`. What is decided is decided in `core.rollout` and
`core.judging`; what operators tell a rollout is `commands`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Set
from contextlib import suppress
from typing import Any

from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts import plans, telling
from gateway.controlplane.rollouts.agreeing import Ask
from gateway.controlplane.rollouts.keeping import Alone, Driver, Keeper
from gateway.controlplane.rollouts.moving import KEEP_S, WHO, Mover, split_of
from gateway.controlplane.rollouts.progress import Move, Progress, Waits
from gateway.controlplane.store.store import StoreError
from gateway.core import edits
from gateway.core.faults import Conflict, Invalid, Missing
from gateway.core.judging import evidence
from gateway.core.rollout import Guard, Judged, Signal, passed, signal_of
from gateway.core.table import Document, Table
from gateway.processes.tasks import told
from gateway.wire.messages import JudgedMessage, Judging

log = logging.getLogger(__name__)
LOOK_S = 0.1
MAX_LOOK_S = 1.0  # of a look: what took longer was no holding, nobody watched
HELD_S = 5.0  # of time that was held, may be lost with this process where nothing is counted
LASTS_S = 2.0  # after a restart nobody is known to be well for a moment
LOADING_S = 60.0  # after a restart: models of different sizes load for different times
STEP = "headgate_rollout_step"
EVIDENCE = "headgate_rollout_evidence"
VERDICTS = "headgate_rollout_verdict_total"
Json = Any


class Rollouts:
    """All rollouts, at most one for each route.

    `tell` is given what workers are to do, whenever it changed; `working` says which backends can
    serve, whatever their weights, and `why_unwell` why one cannot; `driver` knows which are this
    gateway's to drive (all, where it is left out); `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        publisher: Publisher,
        keeper: Keeper,
        events: Events,
        *,
        tell: Callable[[Mapping[str, Judging]], None] = lambda _: None,
        working: Callable[[], Set[str]] = frozenset,
        why_unwell: Callable[[str], str] = lambda backend: "",
        driver: Driver | None = None,
        agreement: Ask = lambda route, canary: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = agreement
        self._publisher = publisher
        self._tell, self._working, self._clock = tell, working, clock
        self._why_unwell = why_unwell
        self.driver = driver or Alone()
        self.mover = Mover(publisher, keeper, events, clock)
        self._all = self.mover.all
        self.lock = asyncio.Lock()
        self._stirred = asyncio.Event()
        self._looked_at = clock()
        self._loads_until: dict[str, float] = {}  # rollouts whose canary may load after a restart

    # -- what is asked

    def shown(self, route: str) -> Json:
        """The rollout of `route`; Missing where there is none."""
        return self.told(self.of(route))

    def all_shown(self) -> dict[str, Json]:
        """Every rollout that is remembered, by route, with its plan."""
        return {
            route: {**self.told(it), "plan": plans.shown(it.plan)}
            for route, it in self._all.items()
        }

    def plan(self, route: str) -> Json:
        """The plan of the rollout on `route`, with what was left out filled in."""
        return plans.shown(self.of(route).plan)

    def allow(self, before: Document, after: Document, who: str) -> None:
        """Conflict where an edit by somebody else changes the split of a running rollout."""
        for route, it in self._all.items() if who != WHO else ():
            if it.is_live and split_of(before, route) != split_of(after, route):
                raise Conflict(
                    f"a rollout of {it.plan.to!r} runs on route {route!r} (step {it.step + 1} of"
                    f" {len(it.plan.steps)}) and its split is not to be edited: abort it first"
                )

    def given_back(self, live: Document, applied: Document, file: Document) -> Document:
        """`live` with the weights of its start on each route whose split a running rollout has and
        `file` edits, since it was `applied`: a weight of the one beside a weight of the other is
        nobody's split. For a start: while it runs nobody edits that."""
        for route, it in self._all.items():
            is_edited = split_of(applied, route) != split_of(file, route)
            if it.is_live and is_edited and split_of(live, route) is not None:
                spec = edits.entry_of(live, "routes", route)
                live = edits.put(live, "routes", route, {**spec, "split": dict(it.start)})
        return live

    def sync(self, table: Table) -> None:
        """What has ended goes with its route: one of that name that comes later is another."""
        if self.mover.forget_gone(table):
            self.mover.is_stale = True
            self.stir()

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
        return dict(self.mover.verdicts)

    # -- for whoever commands them (`commands`), under the lock

    def of(self, route: str) -> Progress:
        """The rollout of `route`; Missing where there is none."""
        edits.entry_of(self._publisher.table.document, "routes", route)  # or no such route
        found = self._all.get(route)
        if found is None:
            raise Missing(f"route {route!r} has no rollout")
        return found

    def told(self, it: Progress) -> dict[str, Json]:
        """`it` as whoever asks is told of it."""
        return telling.shown(it, self.driver.driver_of(it.route))

    def is_compared(self, route: str, canary: str) -> bool:
        """Whether the answers of `canary` are compared with those of `route`."""
        return self._agreement(route, canary) is not None

    def begin_tallies(self, it: Progress) -> None:
        """What is counted from now on is the rollout's."""
        it.tallies.begin(self._clock())
        it.agreement.begin(self._agreement(it.route, it.plan.to))

    def add(self, it: Progress) -> None:
        """One more, which workers hear of before the first request that it decides."""
        self._all[it.route] = it
        self.tell_workers()

    def tell_workers(self) -> None:
        """Says what is to be counted, where that changed."""
        drives = self.driver.drives
        judged = {r: it for r, it in self._all.items() if it.is_live and drives(r)}
        self._tell({route: it.judging() for route, it in judged.items()})

    def stir(self) -> None:
        """Has all rollouts looked at soon."""
        self._stirred.set()

    # -- what is told

    def hear(self, told: JudgedMessage) -> None:
        """What a worker counted."""
        for it in self._all.values():
            if it.id == told["id"] and it.is_live:
                it.tallies.hear(told)
                self.mover.is_stale = True
                self._stirred.set()

    # -- what runs all the time

    async def run(self) -> None:
        """Takes up what was kept, then looks at every rollout until cancelled."""
        async with self.lock:
            self._looked_at = self._clock()
            for it in self._all.values():
                if it.is_live and self.driver.drives(it.route):
                    self._take_up(it)
            self.tell_workers()
        while True:
            if self.mover.is_stale or any(it.is_live for it in self._all.values()):
                await asyncio.sleep(LOOK_S)
            else:
                self._stirred.clear()
                await self._stirred.wait()
                self._looked_at = self._clock()
            async with self.lock:
                await self.look()

    async def follow(self, kept: Mapping[str, Json]) -> None:
        """Takes in what other gateways keep of the rollouts that they drive."""
        async with self.lock:
            for route in [each for each in self._all if each not in kept]:
                if not self.driver.drives(route):
                    del self._all[route]
            for route, each in kept.items():
                if not self.driver.drives(route):
                    self._all[route] = Progress.from_json(route, each)
            self._stirred.set()

    async def go_on(self, driven: Collection[str]) -> None:
        """Drives on what nobody drives: those that are live and none of `driven`."""
        for route in [each for each, it in self._all.items() if it.is_live and each not in driven]:
            if self.driver.drives(route):
                continue
            async with self.lock:
                with suppress(Conflict, StoreError):  # another gateway was quicker
                    await self.driver.claim(route)
                    self._take_up(self._all[route])
                    self.tell_workers()

    def _take_up(self, it: Progress) -> None:
        """Goes on with what another process began; a split that is none of its own is not fought
        for."""
        it.tallies.begin(self._clock())
        self.mover.is_stale = True  # room for going back is held with what is kept
        self._loads_until[it.id] = self._clock() + LOADING_S
        now = split_of(self._publisher.table.document, it.route)
        known = [it.weights, *([it.move.weights] if it.move else [])]
        if now not in known:
            # No edit: the split is what somebody wanted while nobody was here to refuse it.
            it.move = self._end_of(it, "the split was edited while nothing ran")

    def _end_of(self, it: Progress, why: str) -> Move:
        """The end of one whose split is somebody else's, or gone."""
        now = split_of(self._publisher.table.document, it.route)
        return Move("aborted", it.step, why, lost=now or {})

    async def look(self) -> None:
        """One look at all of them; for use under the lock."""
        now, before = self._clock(), self._looked_at
        self._looked_at = now
        for it in list(self._all.values()):
            if it.is_live and self.driver.drives(it.route):
                try:
                    await self._look_at(it, now, before)
                except (Conflict, Missing) as error:
                    # Somebody had the split edited after all; it is no longer this rollout's.
                    it.move = self._end_of(it, str(error))
                except (StoreError, NotInForce, Invalid) as error:
                    # What was decided stays decided, and is tried again.
                    it.stuck = str(error)
                    log.error(f"rollout on {it.route}: {told(error)}; trying again")
                    await asyncio.sleep(KEEP_S)
        await self.mover.keep_up(now)
        self.tell_workers()

    async def _look_at(self, it: Progress, now: float, before: float) -> None:
        if it.move is not None:
            await self.mover.carry_out(it)
            return
        if it.warming and it.tallies.warmed >= it.plan.warmup:
            it.warming, self.mover.is_stale = False, True
        for guard in it.plan.guards:
            if guard.name == "latency":
                it.tallies.learn(now, guard.slower_than)
            elif guard.name == "predictions":
                it.tallies.learn_numbers(now)
            elif guard.name == "agreement":
                is_news = it.agreement.hear(self._agreement(it.route, it.plan.to))
                self.mover.is_stale |= is_news
        guards = it.judge()
        for guard in it.note_failures(guards):
            self._note_failed(it, guard)
        signal, why = self._due(it, guards)
        if signal is None and it.state == "running" and not self._waits(it, now, guards):
            kept = it.held_s // HELD_S
            it.held_s += min(MAX_LOOK_S, now - max(before, it.held_from))
            self.mover.is_stale |= it.held_s // HELD_S > kept
            counts = it.requests, guards, it.accepted, it.is_refusing
            signal = passed(it.plan, it.step, it.held_s, *counts)
            why = self._why(it, guards)
        if signal is not None and not (signal == "hold" and it.state == "paused"):
            await self.mover.make(it, it.moved(signal, why))

    def _due(self, it: Progress, guards: list[tuple[Guard, Judged]]) -> tuple[Signal | None, str]:
        """What has to happen at once, whatever the state, and why."""
        if self._is_lost(it):
            why = self._why_unwell(it.plan.to)
            return "fail", f"{it.plan.to} has no healthy instance" + (f": {why}" if why else "")
        signal = signal_of(guards, it.accepted)
        acts = {"fail": "rollback", "hold": "hold"}.get(signal or "")
        why = "; ".join(
            it.failed[guard.name]
            for guard, _ in guards
            if guard.on_fail == acts and guard.name in it.failed
        )
        return signal, why

    def _is_lost(self, it: Progress) -> bool:
        """Whether its canary cannot serve, while what it would go back to can."""
        working = self._working()
        if it.plan.to in working:
            self._loads_until.pop(it.id, None)
            return False
        return not it.others.isdisjoint(working) and (
            self._clock() >= self._loads_until.get(it.id, 0.0)
        )

    def _waits(self, it: Progress, now: float, guards: list[tuple[Guard, Judged]]) -> bool:
        """Whether none of those that share the route with the canary can serve: there is nothing
        to compare it with, and no step is held or passed. Says so once it lasts, as where the
        canary refuses more than the others or a guard has nothing to judge, and when it is over."""
        is_alone = it.has_others and it.others.isdisjoint(self._working())
        if not is_alone or it.beside_at is None:
            it.beside_at = now
        waits: Waits = "data" if it.is_blind(guards) else ""
        if it.is_kept_by_refusals:
            waits = "answers"
        if is_alone:
            waits = "company" if now - it.beside_at >= LASTS_S else it.waits
        if waits != it.waits:
            before, it.waits = it.waits, waits
            why = telling.waits(it, before)
            it.note(utc_now(), why)
            self.mover.is_stale = True
            self.mover.tell(it, why)
        return is_alone

    def _why(self, it: Progress, guards: list[tuple[Guard, Judged]]) -> str:
        """With which evidence a step was passed."""
        found = ", ".join(
            f"{guard.name} E = {evidence(each.log_evidence):.3g}" for guard, each in guards
        )
        return f"{it.requests:,} requests at {it.share:g} % in {it.held_s:.0f} s: {found}"

    def _note_failed(self, it: Progress, guard: Guard) -> None:
        self.mover.is_stale = True
        self.mover.verdicts[it.route, guard.name, "failed"] += 1
        if guard.on_fail == "warn":
            self.mover.tell(it, it.failed[guard.name])

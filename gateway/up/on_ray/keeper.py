"""How are a cluster's instances held to what the table asks for?

As processes of one machine are: `gateway.core.placement` gives the next steps from what is asked
for and what there is. A start here is an actor that Ray places, where and when it can; which
addresses there are, Ray says: one that it calls away loses its place, whatever it still answers.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway.core import cluster, placement
from gateway.core.placement import FLEET, Place, Start, Stop
from gateway.core.reading import parse_instance
from gateway.processes.tasks import Tasks
from gateway.processes.tasks import told as in_words
from gateway.up.desired import Desired
from gateway.up.fleet import Placed, Plan, follow
from gateway.up.keeping import Lines
from gateway.up.on_ray import telling
from gateway.up.on_ray.held import Actors, Held, planned, unknown, with_a_fleet
from gateway.up.on_ray.shortages import Shortages
from gateway.up.on_ray.words import Room, Seen, Told
from gateway.up.placing import Places
from gateway.up.plan import InstancePlan, ServeError, Site
from gateway.wire.line import ForFleet, ToControl

Spec = Mapping[str, Any]
STOP_WITHIN_S = 40.0
LOOK_EVERY_S = 0.3
REACHED_EVERY_S = 1.0


class Keeper:
    """Holds the instances of one fleet; `tell` reaches whoever sends requests, once `attach`ed, and
    `say` a person. `room` says what the cluster has, and `reached` hears now and then that the
    cluster's head answers."""

    follows = False
    """Whether somebody else places and ends them."""

    def __init__(
        self,
        actors: Actors,
        room: Callable[[], Room],
        site: Site,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        reached: Callable[[], None] = lambda: None,
    ) -> None:
        self._reached, self._reached_at = reached, -math.inf
        self._actors, self._site, self._say = actors, site, say
        self._clock = clock
        self._tasks = Tasks(lambda name, error: say(f"{name}: {in_words(error)}; beginning again"))
        self._held: list[Held] = []
        self._numbers = 0
        self._desired = Desired(clock, self._served)
        self._shortages = Shortages(room, self._desired, clock, say)
        self._places = Places(self._desired)
        self._lines = Lines(say)
        self._tell: Callable[[ToControl], None] | None = None
        self._asked_edit: set[str] = set()
        self._revision = 0
        self._ended, self._is_ended = "", False
        self._serves: Mapping[str, Spec] = {}
        self._looked = asyncio.Event()
        self._starts: dict[str, int] = {}
        self._load_s: dict[str, float] = {}
        self._reported: Any = None

    async def start(
        self, specs: Mapping[str, Spec], *, again: bool = False
    ) -> dict[str, list[str]]:
        """Takes over what is there and starts what is missing. Backend → where it is, once all are
        ready or it is known why not; `again`, where requests are sent already, at once."""
        self._ended = await asyncio.to_thread(self._actors.ended)
        self._adopt(await asyncio.to_thread(self._actors.begun))
        seen = await asyncio.to_thread(self._actors.look, [each.seat.name for each in self._held])
        self._note(seen)
        # Who runs is known by now: it stays awake, and has its place until others have it.
        self._want({name: with_a_fleet(name, spec) for name, spec in specs.items()})
        self._name_versions()
        for name in self._desired.wanted:
            there = [each.address for each in self._of(name) if each.served and each.address]
            self._desired.placed(name, tuple(there))
        self._tasks.keep("looking at the cluster", self._look)
        if not again:
            self._reconcile()
            while not all(self._is_reconciled(name) for name in self._desired.wanted):
                self._looked.clear()
                await self._looked.wait()
        return {
            name: [f"{FLEET}{name}", *(f"http://{at}" for at in asked.in_force)]
            for name, asked in self._desired.wanted.items()
        }

    def attach(self, tell: Callable[[ToControl], None], *, again: bool = False) -> None:
        """From now on `tell` reaches who edits the table and sends requests; `again`: it was told
        by somebody before us, and hears of what moved since."""
        self._tell = tell
        for name in self._desired.beside if again else ():
            self._places.ask(name, self._desired.wanted[name].in_force, tell)
        self._tasks.keep("telling places", lambda: follow(self, tell))

    def endpoints(self) -> AsyncIterator[Placed]:
        """Where instances are."""
        return self._places.stream()

    def ensure(self, plan: Plan) -> None:
        """Holds the instances in the cluster to `plan` from now on."""
        backends, out = plan.backends, plan.out
        self.take({"type": "serves", "revision": plan.revision, "backends": backends, "out": out})

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Lets go: what runs in the cluster goes on."""
        await self._tasks.close()

    def take(self, message: ForFleet) -> None:
        """What the control process has to say."""
        match message["type"]:
            case "serves":
                self._revision = message["revision"]
                self._reported = None  # it may be another control process
                self._places.begin()
                self._asked_edit.clear()
                if not self._is_ended or message["backends"] != self._serves:
                    self._is_ended = False
                    self._want(message["backends"], message.get("out", {}))
                self._serves = message["backends"]
            case "ask_logs":
                if self._tell is not None:
                    self._tell(self._lines.answer(message))
                return
            case "wake":
                self._desired.demand.wake(message["backend"])
                self._desired.look()
            case "sleep":
                if self._desired.demand.is_awake(message["backend"]):
                    self._desired.sleep([message["backend"]])
            case "use":
                self._desired.demand.note_use(message["backends"])
                if idle := self._desired.demand.idle():
                    self._desired.sleep(idle)
            case "settled":
                self._places.settled(message["backend"], tuple(message["addresses"]))
            case "restart":
                self._desired.anew([message["backend"]], spare=False)
        self._reconcile()

    def renew(self, names: Iterable[str]) -> None:
        """New processes for these, each before its predecessor goes."""
        self._desired.anew(names)
        self._reconcile()

    def error(self, name: str) -> str | None:
        """Why the version that is asked for could not be started."""
        asked = self._desired.wanted.get(name)
        for each in self._of(name):
            if asked and each.state == "failed" and each.version == asked.version:
                told = each.seen.told
                return (told["error"] if told else each.plan.fault) or "it could not be started"
        return None

    # -- what there is

    def _of(self, name: str) -> list[Held]:
        return [each for each in self._held if each.seat.backend == name]

    def _served(self) -> set[str]:
        return {each.seat.backend for each in self._held if each.served}

    def _is_reconciled(self, name: str) -> bool:
        asked = self._desired.wanted[name]
        ready = sum(e.state == "ready" and e.version == asked.version for e in self._of(name))
        is_placed = len(asked.in_force) >= min(ready, asked.count)
        return (
            (ready >= asked.count and is_placed)
            or self.error(name) is not None
            or (name in self._shortages.waits)
        )

    def _want(self, specs: Mapping[str, Spec], out: Mapping[str, Sequence[str]] = {}) -> None:
        for name in self._desired.want(specs, out):
            for each in self._of(name):
                each.is_gone |= each.state == "failed"
        self._lines.keep_only({*self._desired.wanted, *(e.seat.backend for e in self._held)})

    def _adopt(self, names: Iterable[str]) -> None:
        """Takes over what somebody else has placed, in the same order for all who look."""
        for seat in filter(None, map(cluster.parse_seat, sorted(names))):
            self._hold(seat, "", unknown(seat)).is_found = True
        self._name_versions()

    def _name_versions(self) -> None:
        """Says of what was found of which version it is, and how often that was renewed."""
        for name, asked in list(self._desired.wanted.items()):
            short = cluster.digest(asked.version.rpartition("#")[0])
            turns = [each.seat.turn for each in self._of(name) if each.seat.digest == short]
            self._desired.turned(name, max(turns, default=0))
        for each in self._held:
            seat = each.seat
            wanted = self._desired.wanted.get(seat.backend)
            bare = wanted.version.rpartition("#")[0] if wanted else ""
            is_it = wanted is not None and cluster.digest(bare) == seat.digest
            version = f"{bare if is_it else seat.digest}#{seat.turn}"
            if each.version != version:
                each.version = version
                with suppress(ServeError):  # it was started elsewhere, and from what is there
                    plan = self._plan(seat.backend, 0) if wanted is not None else unknown(seat)
                    each.plan = replace(plan, instance=each.plan.instance)

    def _hold(self, seat: cluster.Seat, version: str, plan: InstancePlan) -> Held:
        self._numbers += 1
        held = Held(self._numbers, seat, version, plan, self._clock())
        self._held.append(held)
        return held

    async def _look(self) -> None:
        """Looks at all of them, again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look_once()

    async def _look_once(self) -> None:
        await self._look_for_others()
        if self._clock() - self._reached_at >= REACHED_EVERY_S:
            self._reached_at = self._clock()
            self._reached()
        names = [each.seat.name for each in self._held if each.state != "failed"]
        seen = await asyncio.to_thread(self._actors.look, names)
        self._note(seen)
        await self._shortages.look(self._held)
        self._reconcile()
        self._looked.set()

    async def _look_for_others(self) -> None:
        """Does what gateways ask that follow this fleet, and what whoever ended it."""
        for message in await asyncio.to_thread(self._actors.asked):
            self.take(message)
        if (ended := await asyncio.to_thread(self._actors.ended)) != self._ended:
            self._ended, self._is_ended = ended, True
            self._say("the fleet was ended; the next edit of what is served begins it anew")
            self._want({})

    def _note(self, seen: Mapping[str, Seen]) -> None:
        for each in [e for e in self._held if e.seat.name in seen and e.state != "failed"]:
            now, before = seen[each.seat.name], each.seen
            each.seen = now
            if now.state == "gone":
                each.is_gone = True
            elif now.state == "away":
                if before.state == "there":
                    self._say(f"instance {each.plan.name}: its host or its actor is gone")
                    each.since = self._clock()
                each.address, each.served = None, False
                if each.state != "stopping":
                    each.state = "starting"
            elif now.told is not None:
                self._note_word(each, now.told)

    def _note_word(self, each: Held, told: Told) -> None:
        if told["address"] is not None and told["address"] != each.address:
            each.address = told["address"]
            instance = parse_instance(f"http://{each.address}")
            each.plan = replace(each.plan, instance=instance)
        for line in told["lines"]:
            self._lines.keep(each.plan, line)
            if not each.is_found:  # who found it there has not asked what it said before
                self._lines.relay(each.plan, line)
        each.is_found = False
        if told["leaves"]:
            each.state = "stopping"
        if each.state == "stopping":
            return
        each.served = told["served"]
        if told["error"] and told["state"] == "failed":
            each.state = "failed"
            name = each.seat.backend
            self._desired.demand.note_failed(name, name in self._load_s)
            self._say(f"backend {name}: {told['error']}")
            self._end(each, 0)
        elif told["state"] == "ready" and each.state != "ready":
            each.state = "ready"
            self._load_s[each.seat.backend] = self._clock() - each.since
            self._desired.demand.note_ready(each.seat.backend)
            self._say(f"instance {each.plan.name}: ready")
        elif told["state"] == "starting":
            each.state = "starting"

    # -- the steps

    def _reconcile(self) -> None:
        while self._take_steps():
            pass
        self._desired.renewed(self._is_fresh)
        self._report()

    def _is_fresh(self, name: str) -> bool:
        asked = self._desired.wanted.get(name)
        return asked is None or all(e.version == asked.version for e in self._of(name))

    def _take_steps(self) -> bool:
        """Whether something is different now."""
        for each in [e for e in self._held if e.is_gone]:
            self._actors.forget(each.seat.name)
            self._held.remove(each)
        steps = placement.steps(self._desired.wanted, [each.value for each in self._held])
        placing = {step.backend for step in steps if isinstance(step, Place)}
        steps += [Place(*lost) for lost in self._lost() if lost[0] not in placing]
        taken = False
        for step in steps:
            match step:
                case Start():
                    taken |= self._start(step.backend)
                case Place():
                    placing.add(step.backend)
                    taken |= self._place(step)
                case Stop():
                    (held,) = (e for e in self._held if e.number == step.number)
                    taken |= self._stop(held)
        if self._tell is not None:
            self._places.stay(placing, self._tell)
        return taken

    def _lost(self) -> list[tuple[str, tuple[str, ...]]]:
        """Backends that have a place at addresses that the cluster knows of no more."""
        here = {each.address for each in self._held}
        return [
            (name, tuple(at for at in asked.in_force if at in here))
            for name, asked in self._desired.wanted.items()
            if not set(asked.in_force) <= here
        ]

    def _start(self, name: str) -> bool:
        asked = self._desired.wanted[name]
        used = [
            e.seat.index for e in self._of(name)
            if e.seat.name == cluster.seat(name, asked.version, e.seat.index).name
        ]  # fmt: skip
        seat = cluster.seat(name, asked.version, cluster.free_index(used))
        try:
            plan = self._plan(name, seat.index)
        except ServeError as refused:
            self._say(str(refused))
            return False
        held = self._hold(seat, asked.version, plan)
        self._starts[name] = self._starts.get(name, 0) + 1
        if plan.fault is not None:
            held.state = "failed"
            self._say(f"backend {name}: {plan.fault}")
            return True
        needs = cluster.needs(self._desired.specs[name]["serve"])
        create = asyncio.to_thread(self._actors.create, seat.name, plan, needs)
        self._tasks.run(f"asking for {seat.name}", create)
        return True

    def _plan(self, name: str, index: int) -> InstancePlan:
        serve, count = self._desired.specs[name]["serve"], self._desired.wanted[name].count
        return planned(self._site, self._desired.backends[name], serve, index, count)

    def _place(self, step: Place) -> bool:
        name = step.backend
        if self._tell is None:
            self._desired.placed(name, step.addresses)
            return True
        if name in self._desired.beside:
            self._places.ask(name, step.addresses, self._tell)
        elif name not in self._asked_edit:
            self._asked_edit.add(name)
            version = self._desired.version(name)
            urls = [f"{FLEET}{name}"]
            self._tell({"type": "place", "backend": name, "version": version, "urls": urls})
        return False

    def _stop(self, held: Held) -> bool:
        if held.state == "failed":
            held.is_gone = True
            return True
        held.state = "stopping"
        self._end(held, STOP_WITHIN_S)
        return True

    def _end(self, held: Held, within_s: float) -> None:
        async def end() -> None:
            await asyncio.to_thread(self._actors.stop, held.seat.name, within_s)
            if held.state == "stopping":
                held.is_gone = True
                self._reconcile()

        self._tasks.run(f"the end of {held.seat.name}", end())

    def _report(self) -> None:
        if self._tell is None:
            return
        report = telling.fleet(
            self._revision, self._desired, self._held, self.error, self._shortages.waits,
            self._starts, self._load_s, follows=self.follows,
        )  # fmt: skip
        if report != self._reported:
            self._reported = report
            self._tell(report)

"""How are the instances of `headgate up` held to what the table asks for?

A `LocalFleet` is told what is to be served, asks `gateway.core.placement` for the next steps and
takes them, again after whatever changed: an edit, a model that is ready, a process that ended. The
table names where the processes are; that is an edit like any other, which the fleet asks the
control process for. Where models come and go on demand their addresses are told beside the table.
While there is no control process, processes go on, and the next one is told everything.

It runs in the supervisor's process, off the way of every request.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core import placement
from gateway.core.placement import Place, Start, Stop, Wanted, is_fleets
from gateway.core.table import Backend, make_backend
from gateway.processes.children import REAPED_WITHIN_S
from gateway.processes.lifeline import Lifeline
from gateway.processes.sockets import ListenError
from gateway.processes.tasks import Tasks, first_of, told
from gateway.up import telling
from gateway.up.demand import Demand
from gateway.up.device_table import DeviceTable
from gateway.up.fleet import StartError
from gateway.up.keeping import Lines
from gateway.up.loading import Loads
from gateway.up.plan import InstancePlan, ServeError, Site, deal
from gateway.up.process import InstanceProcess
from gateway.up.progress import Progress
from gateway.up.seating import Asked, Seating
from gateway.up.starting import instance_for, refuse_taken_ports, url_of
from gateway.wire.line import Fleet as FleetMessage
from gateway.wire.line import ForFleet, ServedBackend, ToControl

Spec = Mapping[str, Any]
STOP_WITHIN_S = 40.0
"""How long an instance that lost its place may take to finish: its own limit is shorter."""


class LocalFleet:
    """Processes on this machine for what is served, made by `site` on the devices of `table`;
    `progress` shows how the first ones come up."""

    def __init__(
        self,
        site: Site,
        progress: Progress,
        say: Callable[[str], None],
        *,
        chance: int | None = None,
        table: DeviceTable | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site, self._progress, self._say = site, progress, say
        self._chance = random.Random(chance)  # noqa: S311 -- which port, not a secret
        self._lifeline = Lifeline()
        self._own = Tasks(self._note_failure)
        self._numbers = 0
        self._processes: list[InstanceProcess] = []
        self._specs: Mapping[str, Spec] = {}
        self._backends: dict[str, Backend] = {}
        self._wanted: dict[str, Wanted] = {}
        self._revision = 0
        self._placing: set[str] = set()
        self._restarts: dict[str, int] = {}
        self._without_spare: set[str] = set()
        self._lines = Lines(progress.relay)
        self._seating = Seating(table or DeviceTable(), clock)
        self._demand = Demand(clock)
        self._at: dict[str, tuple[str, ...]] = {}  # of those whose addresses are in no document
        self._beside: set[str] = set()
        self._loads = Loads(lambda line: say(line) if self._is_up else None)
        self._told_at: dict[str, tuple[str, ...]] = {}
        self._tell: Callable[[ToControl], None] | None = None
        self._changed = asyncio.Event()
        self._fault: Exception | None = None
        self._is_up, self._is_stopping, self._is_settling = False, False, False

    @property
    def pids(self) -> list[int]:
        """Of every process that runs."""
        return [pid for each in self._processes if (pid := each.pid) is not None]

    @property
    def placed(self) -> dict[str, list[str]]:
        """Backend → the URLs of its instances."""
        return {
            name: [url_of(self._specs[name], address) for address in asked.in_force]
            for name, asked in self._wanted.items()
            if any(p.served and p.plan.backend == name for p in self._processes)
        }

    async def start(
        self, specs: Mapping[str, Spec], is_live: Callable[[str], bool] = lambda name: False
    ) -> None:
        """Returns when every instance is ready; StartError when one cannot be. A backend that
        `is_live`, as an edit and not the file made it, is only said: the others are served."""
        await self._seating.look()
        self._want(specs)
        refuse_taken_ports(self._wanted, self._specs)
        self._settle()
        while True:
            if self._fault is not None:
                raise self._fault
            for name in self._wanted:
                if (error := self._error(name)) is not None and not is_live(name):
                    raise StartError(f"backend {name}: {error}")
            if all(self._is_settled(name) for name in self._wanted):
                break
            self._changed.clear()
            await self._changed.wait()
        self._is_up = True

    @property
    def folders(self) -> dict[str, Path]:
        """Backend → the folder that its code is looked for in."""
        return {
            each.plan.backend: Path(each.plan.folders[0])
            for each in self._processes
            if each.plan.folders
        }

    def renew(self, names: Iterable[str]) -> None:
        """Replaces the processes of each of these backends, none sooner than the new one is ready;
        what could not be started is tried again."""
        for name in names:
            self._restarts[name] = self._restarts.get(name, 0) + 1
        self._want(self._specs)
        self._settle()

    def attach(self, tell: Callable[[ToControl], None]) -> None:
        """From now on `tell` reaches whoever edits the table."""
        self._tell = tell

    def take(self, message: ForFleet) -> None:
        """What the control process has to say."""
        match message["type"]:
            case "serves":
                self._revision = message["revision"]
                self._placing.clear()
                self._told_at.clear()
                self._want(message["backends"])
                self._settle()
            case "ask_logs":
                if self._tell is not None:
                    self._tell(self._lines.answer(message))
            case "wake":
                name = message["backend"]
                if self._demand.wake(name):
                    if not any(p.served and p.state != "stopping" for p in self._of(name)):
                        self._demand.note_gone(name)
                    self._want(self._specs)
                    self._settle()
            case "use":
                self._demand.note_use(message["backends"])
                self._look_at_demand()
            case "settled":
                name = message["backend"]
                self._told_at.pop(name, None)
                if name in self._beside:
                    self._at[name] = tuple(message["addresses"])
                    self._want(self._specs)
                    self._settle()
            case "restart":
                name = message["backend"]
                self._restarts[name] = self._restarts.get(name, 0) + 1
                self._without_spare.add(name)
                self._want(self._specs)
                self._settle()

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends every instance: asked to at first, killed when time or patience is over."""
        self._is_stopping = True
        for process in self._processes:
            process.ask_to_end()
        await first_of(hurry.wait(), self._until_ended(), timeout=within_s)
        for process in self._processes:
            process.abandon()
        await first_of(self._until_ended(), timeout=REAPED_WITHIN_S)
        await self._own.close()
        self._lifeline.close()

    async def _until_ended(self) -> None:
        for process in list(self._processes):
            await process.ended()

    # -- what is asked for

    def _want(self, specs: Mapping[str, Spec]) -> None:
        self._specs = specs
        self._demand.want(specs, {p.plan.backend for p in self._processes if p.served})
        found = {name: placement.wanted(spec) for name, spec in specs.items()}
        before = {name: asked.in_force for name, asked in self._wanted.items()}
        self._beside = {name for name, spec in specs.items() if self._is_beside(spec)}
        self._at = {name: self._at.get(name, before.get(name, ())) for name in self._beside}
        self._wanted = {
            name: replace(
                asked,
                version=f"{asked.version}#{self._restarts.get(name, 0)}",
                spare=name not in self._without_spare,
                count=0 if self._demand.is_asleep(name) else asked.count,
                in_force=self._at.get(name, asked.in_force),
            )
            for name, asked in found.items()
            if asked is not None
        }
        self._backends = {name: make_backend(name, specs[name]) for name in self._wanted}
        here = self._wanted.keys() | {each.plan.backend for each in self._processes}
        self._lines.keep_only(here)

    def _is_beside(self, spec: Spec) -> bool:
        """Whether its addresses are told beside the document."""
        return placement.on_demand(spec) or (bool(spec.get("serve")) and is_fleets(spec))

    def _look_at_demand(self) -> None:
        """Lets those sleep that nobody asks for, and looks again at those that wait for room."""
        for name in self._demand.idle():
            self._say(f"backend {name}: nobody asked for it for long; unloading it")
            self._demand.sleep(name)
        for name in [name for name in self._wanted if self._demand.may_try_again(name)]:
            for each in [p for p in self._of(name) if p.state == "failed"]:
                each.stop(STOP_WITHIN_S)
            self._demand.sleep(name)
        self._want(self._specs)
        self._settle()

    def _is_settled(self, name: str) -> bool:
        asked = self._wanted[name]
        ready = sum(
            each.state == "ready" and each.version == asked.version for each in self._of(name)
        )
        return ready >= asked.count or self._error(name) is not None

    def _is_fresh(self, name: str) -> bool:
        """Whether nothing of an older version runs any more."""
        asked = self._wanted.get(name)
        return asked is None or all(each.version == asked.version for each in self._of(name))

    def _error(self, name: str) -> str | None:
        """Why the version that is asked for could not be started."""
        for each in self._of(name):
            asked = self._wanted.get(name)
            if each.state == "failed" and asked is not None and each.version == asked.version:
                return each.error
        return self._seating.full.get(name)

    def _of(self, name: str) -> list[InstanceProcess]:
        return [each for each in self._processes if each.plan.backend == name]

    # -- the steps

    def _settle(self) -> None:
        """Takes the next steps, until each waits for something."""
        if self._is_settling:
            return  # a step changed something, and is followed by a look at the next ones
        self._is_settling = True
        try:
            while self._take_steps():
                pass
        finally:
            self._is_settling = False
        for name in [each for each in self._without_spare if self._is_fresh(each)]:
            self._without_spare.discard(name)
            self._want(self._specs)
        self._report()
        self._changed.set()

    def _take_steps(self) -> bool:
        """Whether something is different now."""
        self._processes = [each for each in self._processes if not each.is_gone]
        if self._is_stopping:
            return False
        now = [each.value for each in self._processes]
        steps = placement.steps(self._wanted, now)
        starts = self._numbered([step for step in steps if isinstance(step, Start)])
        seats, leave = self._seating.decide(
            [self._ask(start.backend, index) for start, index in starts], self._processes,
            self._demand.guests(self._loads.load_s), self._demand.asleep(),
        )  # fmt: skip
        self._loads.note_full(self._seating.full)
        taken = [self._start(*starts[n], devices) for n, devices in seats.items()]
        taken += [self._take_step(step) for step in steps if not isinstance(step, Start)]
        self._place_again({step.backend for step in steps if isinstance(step, Place)})
        for name, other in leave:
            self._say(f"backend {name}: unloading it to make room for {other}")
            self._demand.sleep(name)
        if leave:
            self._want(self._specs)
        return any(taken) or bool(leave)

    def _ask(self, name: str, index: int) -> Asked:
        devices = deal(self._backends[name], index, self._wanted[name].count)
        return Asked(name, self._specs[name]["serve"], devices, self._demand.asked_at(name))

    def _numbered(self, starts: list[Start]) -> list[tuple[Start, int]]:
        """Each of `starts` with a number that no other process of its version has."""
        used: dict[str, set[int]] = {}
        found = []
        for start in starts:
            name = start.backend
            version = self._wanted[name].version
            own = used.setdefault(name, {p.index for p in self._of(name) if p.version == version})
            index = next(n for n in range(len(own) + 1) if n not in own)
            own.add(index)
            found.append((start, index))
        return found

    def _take_step(self, step: placement.Step) -> bool:
        """Whether something is different now."""
        match step:
            case Stop():
                (process,) = (each for each in self._processes if each.number == step.number)
                if process.state != "failed" and self._is_up:
                    self._say(f"instance {process.plan.name}: finishes what it has, then stops")
                process.stop(STOP_WITHIN_S)
            case Place():
                return self._place(step)
            case Start():
                raise AssertionError("it needs its devices")
        return True

    def _start(self, step: Start, index: int, devices: tuple[str, ...]) -> bool:
        name = step.backend
        asked = self._wanted[name]
        counts = [(self._backends[each], w.count) for each, w in self._wanted.items()]
        threads = self._site.threads(counts)
        try:
            taken = {each.plan.instance.address for each in self._processes}
            taken |= {at for w in self._wanted.values() for at in (*w.pins, *w.in_force)}
            instance, error = instance_for(step, self._specs[name], taken, self._chance)
            plan = self._site.plan(
                self._backends[name], instance, index, asked.count, threads, devices
            )
        except (ListenError, ServeError) as refused:
            if not self._is_up:
                raise StartError(f"backend {name}: {refused}") from None
            self._say(f"backend {name}: {refused}")
            return False
        error = error or plan.fault
        process = self._process(plan, asked.version, index)
        self._processes.append(process)
        self._seating.take(process, self._specs[name]["serve"])
        self._loads.begun(name)
        if error is not None:
            process.fail(error)
            self._note(process)
            return True
        if self._is_up:
            self._say(f"instance {plan.name}: starting {plan.model}")
        else:
            self._progress.begin(plan)
        process.start()
        return True

    def _process(self, plan: InstancePlan, version: str, index: int) -> InstanceProcess:
        self._numbers += 1
        return InstanceProcess(
            self._numbers, version, index, plan, self._own, self._lifeline,
            changed=self._note, heard=self._lines.keep, relay=self._lines.relay, say=self._say,
        )  # fmt: skip

    def _place_again(self, moving: set[str]) -> None:
        """Those that are to stay after all, while workers still let go of them, are told so."""
        for name, told_at in list(self._told_at.items()):
            asked = self._wanted.get(name)
            if asked is not None and name not in moving and set(told_at) != set(asked.in_force):
                self._place(Place(name, asked.in_force))

    def _place(self, step: Place) -> bool:
        name = step.backend
        asked = self._wanted[name]
        if self._tell is None:  # nobody gets requests yet
            self._wanted[name] = replace(asked, in_force=step.addresses)
            if name in self._beside:
                self._at[name] = step.addresses
            return True
        if name in self._beside:
            if self._told_at.get(name) != step.addresses:
                self._told_at[name] = step.addresses
                self._tell({"type": "endpoints", "backend": name, "addresses": step.addresses})
            return False
        if name not in self._placing:
            self._placing.add(name)
            urls = [url_of(self._specs[name], address) for address in step.addresses]
            version = placement.version_of(self._specs[name]["serve"])
            self._tell({"type": "place", "backend": name, "version": version, "urls": urls})
        return False

    # -- what is heard and told

    def _note(self, process: InstanceProcess) -> None:
        """Something of a process changed."""
        plan = process.plan
        if process.state == "ready" and process.is_news:
            self._note_ready(process)
            if self._is_up:
                self._say(f"instance {plan.name}: ready after {process.lasted_s:.1f} s")
            elif not process.restarts:
                try:
                    self._progress.finish(plan)
                except Exception as error:  # a fault of ours; whoever waits for the start has it
                    self._fault = error
        if process.state == "failed" and process.is_news:
            self._demand.note_failed(plan.backend, plan.backend in self._loads.load_s)
        if process.state == "failed" and process.is_news and self._is_up:
            others = any(e.served for e in self._of(plan.backend))
            goes_on = "; the version before goes on answering" if others else ""
            self._say(f"backend {plan.backend}: {process.error}{goes_on}")
        process.is_news = False
        self._settle()

    def _note_ready(self, process: InstanceProcess) -> None:
        name = process.plan.backend
        self._loads.ready(name, process.lasted_s)
        if process.restarts:
            self._loads.begun(name)
        self._demand.note_ready(name)
        if None in process.seats.values() and name in self._specs:
            self._own.run(f"measuring {name}", self._measure(process))

    async def _measure(self, process: InstanceProcess) -> None:
        """What others load on its devices waits for it."""
        name = process.plan.backend
        serve = self._specs[name]["serve"]
        await self._seating.measure(process, serve, lambda: self._processes)
        self._settle()

    def _report(self) -> None:
        """Tells the control process all there is."""
        if self._tell is None:
            return
        backends = {name: self._told(name) for name in self._wanted}
        for name in {each.plan.backend for each in self._processes} - backends.keys():
            backends[name] = self._told(name)
        message: FleetMessage = {
            "type": "fleet", "revision": self._revision, "backends": backends,
            "devices": self._seating.messages(self._processes),
        }  # fmt: skip
        self._tell(message)

    def _told(self, name: str) -> ServedBackend:
        return telling.backend(
            self._wanted.get(name), self._of(name),
            error=self._error(name), waits=self._seating.waits.get(name),
            starts=self._loads.starts.get(name, 0), load_s=self._loads.load_s.get(name),
            is_beside=name in self._beside,
        )  # fmt: skip

    def _note_failure(self, name: str, error: Exception) -> None:
        self._say(f"a fault in headgate itself: {name} ended: {told(error)}; beginning again")

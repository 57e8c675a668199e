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
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core import placement
from gateway.core.placement import Place, Start, Stop, Wanted
from gateway.processes.sockets import ListenError
from gateway.processes.tasks import told
from gateway.up import telling
from gateway.up.desired import Desired
from gateway.up.device_table import DeviceTable
from gateway.up.fleet import Placed, Plan, StartError
from gateway.up.keeping import Lines
from gateway.up.loading import Loads
from gateway.up.placing import Places
from gateway.up.plan import ServeError, Site, deal
from gateway.up.process import InstanceProcess
from gateway.up.progress import Progress
from gateway.up.running import Processes
from gateway.up.seating import Asked, Seating
from gateway.up.starting import instance_for, refuse_taken_ports, url_of
from gateway.wire.line import ForFleet, ToControl

Spec = Mapping[str, Any]
STOP_WITHIN_S = 40.0
"""How long an instance that lost its place may take to finish: its own limit is shorter."""


class LocalFleet:
    """Processes on this machine for what is served, made by `site` on the devices of `table`;
    `progress` shows how the first ones come up. What they leave behind is known by the `mark`."""

    def __init__(
        self,
        site: Site,
        progress: Progress,
        say: Callable[[str], None],
        *,
        table: DeviceTable | None = None,
        clock: Callable[[], float] = time.monotonic,
        mark: str = "",
    ) -> None:
        self._site, self._progress, self._say = site, progress, say
        self._chance = random.Random()  # noqa: S311 -- which port, not a secret
        self._revision = 0
        self._lines = Lines(progress.relay)
        self._processes = Processes(self._lines, self._note, say, self._note_failure, mark)
        self._seating = Seating(table or DeviceTable(), clock)
        self._desired = Desired(clock, self._processes.served)
        self._demand = self._desired.demand
        self._places = Places(self._desired)
        self._loads = Loads(lambda line: say(line) if self._is_up else None)
        self._tell: Callable[[ToControl], None] | None = None
        self._changed = asyncio.Event()
        self._fault: Exception | None = None
        self._is_up, self._is_stopping, self._is_reconciling = False, False, False

    @property
    def _wanted(self) -> dict[str, Wanted]:
        return self._desired.wanted

    @property
    def _specs(self) -> Mapping[str, Spec]:
        return self._desired.specs

    @property
    def pids(self) -> list[int]:
        """Of every process that runs."""
        return self._processes.pids()

    @property
    def placed(self) -> dict[str, list[str]]:
        """Backend → the URLs of its instances."""
        return {
            name: [url_of(self._specs[name], address) for address in asked.in_force]
            for name, asked in self._wanted.items()
            if name in self._processes.served()
        }

    async def start(
        self, specs: Mapping[str, Spec], is_live: Callable[[str], bool] = lambda name: False
    ) -> None:
        """Returns when every instance is ready; StartError when one cannot be. A backend that
        `is_live`, as an edit and not the file made it, is only said: the others are served."""
        await self._seating.look()
        self._want(specs)
        refuse_taken_ports(self._wanted, self._specs)
        self._reconcile()
        while True:
            if self._fault is not None:
                raise self._fault
            for name in self._wanted:
                if (error := self._error(name)) is not None and not is_live(name):
                    raise StartError(f"backend {name}: {error}")
            if all(self._is_reconciled(name) for name in self._wanted):
                break
            self._changed.clear()
            await self._changed.wait()
        self._is_up = True

    @property
    def folders(self) -> dict[str, Path]:
        """Backend → the folder that its code is looked for in."""
        return self._processes.folders()

    def renew(self, names: Iterable[str]) -> None:
        """Replaces the processes of each of these backends, none sooner than the new one is ready;
        what could not be started is tried again."""
        self._desired.anew(names)
        self._reconcile()

    def attach(self, tell: Callable[[ToControl], None]) -> None:
        """From now on `tell` reaches whoever edits the table."""
        self._tell = tell

    def take(self, message: ForFleet) -> None:
        """What the control process has to say."""
        match message["type"]:
            case "serves":
                self.ensure(Plan(message["revision"], message["backends"], message.get("out", {})))
            case "ask_logs":
                if self._tell is not None:
                    self._tell(self._lines.answer(message))
            case "wake":
                self._wake(message["backend"])
            case "sleep":
                if self._demand.is_awake(message["backend"]):
                    self._desired.sleep([message["backend"]])
                    self._reconcile()
            case "use":
                self._demand.note_use(message["backends"])
                self._look_at_demand()
            case "settled":
                self._places.settled(message["backend"], tuple(message["addresses"]))
                self._reconcile()
            case "restart":
                self._desired.anew([message["backend"]], spare=False)
                self._reconcile()

    def ensure(self, plan: Plan) -> None:
        """Holds processes to `plan` from now on."""
        self._revision = plan.revision
        self._places.begin()
        self._want(plan.backends, plan.out)
        self._reconcile()

    def endpoints(self) -> AsyncIterator[Placed]:
        """Where instances are, of the backends whose addresses are in no document."""
        return self._places.stream()

    def _want(self, specs: Mapping[str, Spec], out: Mapping[str, Sequence[str]] = {}) -> None:
        for name in self._desired.want(specs, out):
            self._forget_failed(name)
        self._lines.keep_only(self._wanted.keys() | self._processes.backends())

    def _wake(self, name: str) -> None:
        if self._demand.wake(name):
            if not any(p.served and p.state != "stopping" for p in self._of(name)):
                self._demand.note_gone(name)
            self._desired.look()
            self._reconcile()

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends every instance: asked to at first, killed when time or patience is over."""
        self._is_stopping = True
        await self._processes.stop(within_s, hurry)

    # -- what is asked for

    def _look_at_demand(self) -> None:
        """Lets those sleep that nobody asks for, and looks again at those that wait for room."""
        for name in self._demand.idle():
            self._say(f"backend {name}: nobody asked for it for long; unloading it")
            self._desired.sleep([name])
        for name in [name for name in self._wanted if self._demand.may_try_again(name)]:
            self._forget_failed(name)
            self._desired.sleep([name])
        self._reconcile()

    def _forget_failed(self, name: str) -> None:
        """Has what could not be started of it tried again, while it is asked for."""
        for each in [process for process in self._of(name) if process.state == "failed"]:
            each.stop(STOP_WITHIN_S)

    def _is_reconciled(self, name: str) -> bool:
        asked = self._wanted[name]
        is_there = self._processes.ready(name, asked.version) >= asked.count
        return is_there or self._error(name) is not None

    def _is_fresh(self, name: str) -> bool:
        """Whether nothing of an older version runs any more."""
        asked = self._wanted.get(name)
        return asked is None or all(each.version == asked.version for each in self._of(name))

    def _error(self, name: str) -> str | None:
        """Why the version that is asked for could not be started."""
        asked = self._wanted.get(name)
        failed = self._processes.error(name, asked.version) if asked is not None else None
        return failed or self._seating.full.get(name)

    def _of(self, name: str) -> list[InstanceProcess]:
        return self._processes.of(name)

    # -- the steps

    def _reconcile(self) -> None:
        """Takes the next steps, until each waits for something."""
        if self._is_reconciling:
            return  # a step changed something, and is followed by a look at the next ones
        self._is_reconciling = True
        try:
            while self._take_steps():
                pass
        finally:
            self._is_reconciling = False
        self._desired.renewed(self._is_fresh)
        self._report()
        self._changed.set()

    def _take_steps(self) -> bool:
        """Whether something is different now."""
        self._processes.drop_gone()
        if self._is_stopping:
            return False
        now = [each.value for each in self._processes]
        steps = placement.steps(self._wanted, now)
        starts = self._processes.numbers(steps, lambda name: self._wanted[name].version)
        seats, leave = self._seating.decide(
            [self._ask(start.backend, index) for start, index in starts], self._processes,
            self._demand.guests(self._loads.load_s), self._demand.asleep(),
        )  # fmt: skip
        self._loads.note_full(self._seating.full)
        taken = [self._start(*starts[n], devices) for n, devices in seats.items()]
        taken += [self._take_step(step) for step in steps if not isinstance(step, Start)]
        if self._tell is not None:
            moving = {step.backend for step in steps if isinstance(step, Place)}
            self._places.stay(moving, self._tell)
        for name, other in leave:
            self._say(f"backend {name}: unloading it to make room for {other}")
        if leave:
            self._desired.sleep(name for name, _ in leave)
        return any(taken) or bool(leave)

    def _ask(self, name: str, index: int) -> Asked:
        devices = deal(self._desired.backends[name], index, self._wanted[name].count)
        return Asked(name, self._specs[name]["serve"], devices, self._demand.asked_at(name))

    def _take_step(self, step: placement.Step) -> bool:
        """Whether something is different now."""
        match step:
            case Stop():
                process = self._processes.numbered(step.number)
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
        counts = [(self._desired.backends[each], w.count) for each, w in self._wanted.items()]
        threads = self._site.threads(counts)
        try:
            taken = {each.plan.instance.address for each in self._processes}
            taken |= {at for w in self._wanted.values() for at in (*w.pins, *w.in_force)}
            instance, error = instance_for(step, self._specs[name], taken, self._chance)
            plan = self._site.plan(
                self._desired.backends[name], instance, index, asked.count, threads, devices
            )
        except (ListenError, ServeError) as refused:
            if not self._is_up:
                raise StartError(f"backend {name}: {refused}") from None
            self._say(f"backend {name}: {refused}")
            return False
        error = error or plan.fault
        process = self._processes.add(plan, asked.version, index)
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

    def _place(self, step: Place) -> bool:
        if self._tell is None:  # nobody gets requests yet
            asked = self._wanted[step.backend]
            self._wanted[step.backend] = replace(asked, in_force=step.addresses)
            self._desired.placed(step.backend, step.addresses)
            return True
        self._places.ask(step.backend, step.addresses, self._tell)
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
        self._reconcile()

    def _note_ready(self, process: InstanceProcess) -> None:
        name = process.plan.backend
        self._loads.ready(name, process.lasted_s)
        if process.restarts:
            self._loads.begun(name)
        self._demand.note_ready(name)
        if None in process.seats.values() and name in self._specs:
            self._processes.own.run(f"measuring {name}", self._measure(process))

    async def _measure(self, process: InstanceProcess) -> None:
        """What others load on its devices waits for it."""
        name = process.plan.backend
        serve = self._specs[name]["serve"]
        await self._seating.measure(process, serve, lambda: self._processes.all)
        self._reconcile()

    def _report(self) -> None:
        """Tells the control process all there is."""
        if self._tell is None:
            return
        self._tell(
            telling.fleet(
                self._revision, self._desired, self._processes, self._loads,
                errors=self._error, waits=self._seating.waits,
                devices=self._seating.messages(self._processes),
            )
        )  # fmt: skip

    def _note_failure(self, name: str, error: Exception) -> None:
        self._say(f"a fault in headgate itself: {name} ended: {told(error)}; beginning again")

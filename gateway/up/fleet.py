"""How are the instances of `headgate up` held to what the table asks for?

A `Fleet` is told what is to be served, asks `gateway.core.placement` for the next steps and takes
them, again after whatever changed: an edit, a model that is ready, a process that ended. The table
names where the processes are; that is an edit like any other, which the fleet asks the control
process for. While there is none, processes go on, and the next one is told everything.

It runs in the supervisor's process, off the way of every request.
"""

import asyncio
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core import placement
from gateway.core.placement import Place, Start, Stop, Wanted
from gateway.core.table import Backend, Instance, make_backend, parse_instance
from gateway.processes.children import REAPED_WITHIN_S
from gateway.processes.lifeline import Lifeline
from gateway.processes.sockets import ListenError
from gateway.processes.tasks import Tasks, first_of, told
from gateway.up import ports
from gateway.up.plan import InstancePlan, ServeError, Site
from gateway.up.process import InstanceProcess
from gateway.up.progress import Progress
from gateway.wire.line import Fleet as FleetMessage
from gateway.wire.line import ForFleet, ServedBackend, ToControl
from gateway.wire.line import InstanceProcess as ProcessMessage

Spec = Mapping[str, Any]
LINES_KEPT = 500  # for each backend
LONGEST_LINE = 4096
STOP_WITHIN_S = 40.0
"""How long an instance that lost its place may take to finish: its own limit is shorter."""


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""


class Fleet:
    """Processes for what is served, made by `site`; `progress` shows how the first ones come up."""

    def __init__(
        self,
        site: Site,
        progress: Progress,
        say: Callable[[str], None],
        *,
        chance: int | None = None,
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
        self._logs: dict[str, deque[tuple[int, str, str]]] = {}
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
            name: [self._url(name, address) for address in asked.in_force]
            for name, asked in self._wanted.items()
            if any(p.served and p.plan.backend == name for p in self._processes)
        }

    async def start(
        self, specs: Mapping[str, Spec], is_live: Callable[[str], bool] = lambda name: False
    ) -> None:
        """Returns when every instance is ready; StartError when one cannot be. A backend that
        `is_live`, as an edit and not the file made it, is only said: the others are served."""
        self._want(specs)
        self._refuse_taken_ports()
        self._settle()
        while not all(self._is_settled(name) for name in self._wanted):
            self._changed.clear()
            await self._changed.wait()
            if self._fault is not None:
                raise self._fault
            for name in self._wanted:
                if (error := self._error(name)) is not None and not is_live(name):
                    raise StartError(f"backend {name}: {error}")
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
                self._want(message["backends"])
                self._settle()
            case "ask_logs":
                log = self._logs.get(message["backend"], ())
                lines = [line for line in log if line[0] > message["after"]][-message["lines"] :]
                if self._tell is not None:
                    self._tell({"type": "logs", "id": message["id"], "lines": lines})
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
        found = {name: placement.wanted(spec) for name, spec in specs.items()}
        self._wanted = {
            name: replace(
                asked,
                version=f"{asked.version}#{self._restarts.get(name, 0)}",
                spare=name not in self._without_spare,
            )
            for name, asked in found.items()
            if asked is not None
        }
        self._backends = {name: make_backend(name, specs[name]) for name in self._wanted}
        here = self._wanted.keys() | {each.plan.backend for each in self._processes}
        self._logs = {name: log for name, log in self._logs.items() if name in here}

    def _refuse_taken_ports(self) -> None:
        # Somebody else who answers there must not be taken for our instance.
        for name, asked in self._wanted.items():
            for address in asked.pins:
                if reason := ports.refusal(self._instance(name, address)):
                    raise StartError(f"backend {name}: {reason}")

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
            if each.state == "failed" and each.version == self._wanted[name].version:
                return each.error
        return None

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
        taken = [self._take_step(step) for step in placement.steps(self._wanted, now)]
        return any(taken)

    def _take_step(self, step: placement.Step) -> bool:
        """Whether something is different now."""
        match step:
            case Start():
                return self._start(step)
            case Stop():
                (process,) = (each for each in self._processes if each.number == step.number)
                if process.state != "failed" and self._is_up:
                    self._say(f"instance {process.plan.name}: finishes what it has, then stops")
                process.stop(STOP_WITHIN_S)
            case Place():
                return self._place(step)
        return True

    def _start(self, step: Start) -> bool:
        name = step.backend
        asked, own = self._wanted[name], self._of(name)
        used = {each.index for each in own if each.version == asked.version}
        index = next(n for n in range(len(used) + 1) if n not in used)
        counts = [(self._backends[each], w.count) for each, w in self._wanted.items()]
        threads = self._site.threads(counts)
        try:
            instance, error = self._instance_for(step)
            plan = self._site.plan(self._backends[name], instance, index, asked.count, threads)
        except (ListenError, ServeError) as refused:
            if not self._is_up:
                raise StartError(f"backend {name}: {refused}") from None
            self._say(f"backend {name}: {refused}")
            return False
        error = error or plan.fault
        process = self._process(plan, asked.version, index)
        self._processes.append(process)
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

    def _instance_for(self, step: Start) -> tuple[Instance, str | None]:
        """Where to start it, and why it cannot be there."""
        if step.pinned:
            instance = self._instance(step.backend, step.addresses[0])
            return instance, ports.refusal(instance)
        taken = {each.plan.instance.address for each in self._processes}
        taken |= {address for w in self._wanted.values() for address in (*w.pins, *w.in_force)}
        for address in step.addresses:
            instance = self._instance(step.backend, address)
            if ports.is_free(instance):
                return instance, None
        return ports.choose(taken, self._chance), None

    def _process(self, plan: InstancePlan, version: str, index: int) -> InstanceProcess:
        self._numbers += 1
        return InstanceProcess(
            self._numbers, version, index, plan, self._own, self._lifeline,
            changed=self._note, heard=self._keep, relay=self._relay, say=self._say,
        )  # fmt: skip

    def _place(self, step: Place) -> bool:
        name = step.backend
        asked = self._wanted[name]
        if self._tell is None:  # nobody gets requests yet
            self._wanted[name] = replace(asked, in_force=step.addresses)
            return True
        if name not in self._placing:
            self._placing.add(name)
            urls = [self._url(name, address) for address in step.addresses]
            version = placement.version_of(self._specs[name]["serve"])
            self._tell({"type": "place", "backend": name, "version": version, "urls": urls})
        return False

    def _instance(self, name: str, address: str) -> Instance:
        return parse_instance(self._url(name, address))

    def _url(self, name: str, address: str) -> str:
        """The URL for `address`, as it was written where it was."""
        spec = self._specs[name]
        for url in (*(spec.get("instances") or ()), *(spec.get("placed") or ())):
            if parse_instance(url).address == address:
                return str(url)
        return f"http://{address}"

    # -- what is heard and told

    def _note(self, process: InstanceProcess) -> None:
        """Something of a process changed."""
        plan = process.plan
        if process.state == "ready" and process.is_news:
            if self._is_up:
                self._say(f"instance {plan.name}: ready after {process.lasted_s:.1f} s")
            elif not process.restarts:
                try:
                    self._progress.finish(plan)
                except Exception as error:  # a fault of ours; whoever waits for the start has it
                    self._fault = error
        if process.state == "failed" and process.is_news and self._is_up:
            others = any(e.served for e in self._of(plan.backend))
            goes_on = "; the version before goes on answering" if others else ""
            self._say(f"backend {plan.backend}: {process.error}{goes_on}")
        process.is_news = False
        self._settle()

    def _report(self) -> None:
        """Tells the control process all there is."""
        if self._tell is None:
            return
        backends = {name: self._told(name) for name in self._wanted}
        for name in {each.plan.backend for each in self._processes} - backends.keys():
            backends[name] = self._told(name)
        message: FleetMessage = {
            "type": "fleet", "revision": self._revision, "backends": backends
        }  # fmt: skip
        self._tell(message)

    def _told(self, name: str) -> ServedBackend:
        asked = self._wanted.get(name)
        version = asked.version if asked is not None else ""
        processes: list[ProcessMessage] = [
            {
                "address": each.plan.instance.address,
                "pid": each.pid,
                "state": each.state,
                "model": each.plan.model,
                "current": each.version == version,
                "restarts": each.restarts,
                "error": each.error,
            }
            for each in self._of(name)
        ]
        if asked is None:
            return {"state": "stopping", "error": None, "processes": processes}
        error = self._error(name)
        state = "failed" if error else "ready" if self._is_as_wanted(name) else "starting"
        return {"state": state, "error": error, "processes": processes}

    def _is_as_wanted(self, name: str) -> bool:
        asked = self._wanted[name]
        ready = {
            each.plan.instance.address
            for each in self._of(name)
            if each.state == "ready" and each.version == asked.version
        }
        return len(ready) >= asked.count and set(asked.in_force) <= ready

    def _note_failure(self, name: str, error: Exception) -> None:
        self._say(f"a fault in headgate itself: {name} ended: {told(error)}; beginning again")

    def _keep(self, plan: InstancePlan, line: str) -> None:
        """Keeps `line` for who asks for the last ones."""
        log = self._logs.setdefault(plan.backend, deque(maxlen=LINES_KEPT))
        number = log[-1][0] + 1 if log else 1
        log.append((number, plan.instance.address, line[:LONGEST_LINE]))

    def _relay(self, plan: InstancePlan, line: str) -> None:
        name = f"{plan.backend}:{plan.instance.port}"
        if line.startswith('{"time":"') and line.endswith("}"):  # the log, as ours is written
            self._progress.relay(f'{line[:-1]},"instance":"{name}"}}')
        else:
            self._progress.relay(f"{name} | {line}")


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1

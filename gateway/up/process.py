"""How is one instance process of `headgate up` started, watched and stopped?

It is asked over HTTP whether it is ready, as the gateway will ask it: it knows nothing of us. Until
it was ready once, its end is a failure: a model that cannot be loaded will not be loaded by trying
again. After that, whatever ends is started again.
"""

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from gateway.controlplane.events import utc_now
from gateway.controlplane.watch.probing import Target, probe
from gateway.core.placement import Process, ProcessState
from gateway.core.table import Health
from gateway.processes import leftovers
from gateway.processes.children import Child, Command, Exit, python_path, this_program
from gateway.processes.lifeline import Lifeline
from gateway.processes.shadowed import shadowed
from gateway.processes.tasks import Tasks, first_of
from gateway.up.plan import InstancePlan

ASK_EVERY_S = 0.1
PROBE_WITHIN_S = 2.0
LINES_KEPT = 200
LAST_WORDS_S = 1.0
SAID_BY_AN_INSTANCE = "headgate instance: "


class InstanceProcess:
    """One process of `plan`, among those of its backend and version the one with that `index`.

    `changed` is called whenever its state is another one, `heard` gets each line that it writes and
    `relay` those once it is ready, `say` what is to be known of it. `is_news`: nobody looked at its
    state yet. `started` is when it began last, `last_error` how it ended unasked before that, and
    when. `seats`: device → the bytes of it that it has, None until they are measured. What it left
    behind ends with it: `mark` is what the marks of all of its like begin with.
    """

    def __init__(
        self,
        number: int,
        version: str,
        index: int,
        plan: InstancePlan,
        own: Tasks,
        lifeline: Lifeline,
        *,
        changed: Callable[["InstanceProcess"], None],
        heard: Callable[[InstancePlan, str], None],
        relay: Callable[[InstancePlan, str], None],
        say: Callable[[str], None],
        mark: str = "",
    ) -> None:
        self._mark = f"{mark or secrets.token_hex(8)}-{number}."
        self.number, self.version, self.index, self.plan = number, version, index, plan
        self.state: ProcessState = "starting"
        self.served, self.is_gone, self.is_news, self.restarts = False, False, False, 0
        self.error: str | None = None
        self.started: str | None = None
        self.last_error: tuple[str, str] | None = None
        self.seats: dict[str, int | None] = {}
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._own, self._changed, self._say = own, changed, say
        self._heard, self._relay = heard, relay
        self._begun = time.monotonic()
        self._reader: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._child = Child(
            lambda: Command(
                # The instance knows nothing of us; tied, it cannot outlive us either.
                this_program("_tied", *plan.argv),
                environment={**_environment(plan), leftovers.MARK: self._mark},
                relayed=True,
                foreign=True,
            ),
            lifeline,
            started=self._on_start,
            ended=self._on_end,
        )

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def value(self) -> Process:
        """What the next steps are found from."""
        at = self.plan.instance.address
        return Process(self.number, self.plan.backend, self.version, at, self.state, self.served)

    @property
    def lasted_s(self) -> float:
        """Since when it is starting."""
        return time.monotonic() - self._begun

    def start(self) -> None:
        self._keeper = self._own.keep(f"the keeper of instance {self.plan.name}", self._child.run)
        self._keeper.add_done_callback(self._note_end)

    def fail(self, error: str) -> None:
        """Notes that the process cannot be started, and why."""
        self.state, self.error, self.is_news = "failed", error, True

    def stop(self, within_s: float) -> None:
        """Asks it to finish what it has and to end; kills it when that takes too long."""
        self.state = "stopping"
        if self._keeper is None or self._keeper.done():  # it failed: nothing runs
            self.is_gone = True
            return
        self._child.stop()
        self._own.run(f"the end of instance {self.plan.name}", self._end(within_s))

    def ask_to_end(self) -> None:
        """Asks it to end, and no more."""
        self._child.stop()

    def abandon(self) -> None:
        """Kills it."""
        self._child.abandon()

    async def ended(self) -> None:
        """Returns once it has ended, and said its last words; its output may be open for long, in a
        process of its own that it left behind."""
        if self._keeper is not None:
            await asyncio.wait({self._keeper})
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=LAST_WORDS_S)

    async def _end(self, within_s: float) -> None:
        await first_of(self.ended(), timeout=within_s)
        self._child.abandon()
        await self._clear_up()

    async def _clear_up(self) -> None:
        """Ends what it left behind."""
        await asyncio.to_thread(leftovers.end, self._mark)

    def _note_end(self, _: asyncio.Task[None]) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self.is_gone = self.state != "failed"
        self._changed(self)

    def _on_start(self, _pid: int, output: asyncio.StreamReader | None) -> None:
        assert output is not None
        name = self.plan.name
        self._begun, self.started = time.monotonic(), utc_now()
        self._reader = self._own.keep(f"the output of instance {name}", partial(self._read, output))
        self._asking = self._own.keep(f"the start of instance {name}", self._until_ready)
        self._changed(self)

    async def _until_ready(self) -> None:
        health = Health(path=self.plan.health_path, timeout_s=PROBE_WITHIN_S)
        target = Target(self.plan.instance.host, self.plan.instance.port, health)
        # Nobody will tell us: the instance can only be asked.
        while await probe(target) != "ready":  # noqa: ASYNC110
            await asyncio.sleep(ASK_EVERY_S)
        if self.state != "starting":
            return
        first, self.state, self.served, self.is_news = not self.served, "ready", True, True
        if first:
            for line in self.lines:
                self._relay(self.plan, line)
        self._changed(self)

    async def _on_end(self, exit: Exit) -> bool:
        # What it said last explains its end, and may still be on its way.
        if self._asking is not None:
            self._asking.cancel()
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=LAST_WORDS_S)
        await self._clear_up()
        if not self.served:
            self.fail(self._explain(exit))
            return False
        self.state = "starting"
        self.restarts += 1
        self.last_error = (f"it {exit}", utc_now())
        pause = f" in {exit.pause_s:g} s" if exit.pause_s else ""
        self._say(f"instance {self.plan.name} {exit}; starting it again{pause}")
        self._changed(self)
        return True

    def _explain(self, exit: Exit) -> str:
        words = [line.strip() for line in self.lines if line.strip()]
        reason = words[-1] if words and exit.code >= 0 else f"it {exit}"
        if reason.startswith(SAID_BY_AN_INSTANCE):
            reason = reason.removeprefix(SAID_BY_AN_INSTANCE)
        elif python := self.plan.python:  # it may be that no instance began to run
            reason += f"; {python} needs Headgate itself too, and what the model imports"
        if hidden := next(filter(None, map(shadowed, self.plan.folders)), None):
            reason += f"; {hidden}"
        return f"model {self.plan.model} could not be started: {reason}"

    async def _read(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError as overrun:
                line = await output.readexactly(overrun.consumed)
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(text)
            self._heard(self.plan, text)
            if self.served:
                self._relay(self.plan, text)


def _environment(plan: InstancePlan) -> dict[str, str]:
    found = {**dict(plan.environment), "PYTHONUNBUFFERED": "1"}
    ours = python_path(*plan.folders)["PYTHONPATH"]
    theirs = found.get("PYTHONPATH")
    return {**found, "PYTHONPATH": f"{ours}{os.pathsep}{theirs}" if theirs else ours}

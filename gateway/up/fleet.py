"""How are the instances of `headgate up` started, watched and stopped?

A `Fleet` runs one child per planned instance. Until an instance was ready once, its end is
the end of the start: a model that cannot be loaded will not be loaded by trying again.
After that, whatever ends is started again. Instances know nothing of the gateway and are
asked over HTTP whether they are ready, as the gateway will ask them.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from gateway.controlplane.watch.prober import Target, probe
from gateway.core.table import Health
from gateway.processes.children import (
    REAPED_WITHIN_S,
    Child,
    Command,
    Exit,
    python_path,
    this_program,
)
from gateway.processes.lifeline import Lifeline
from gateway.processes.sockets import ListenError, bind
from gateway.processes.tasks import Tasks, first_of, told
from gateway.up.plan import InstancePlan
from gateway.up.progress import Progress

ASK_EVERY_S = 0.1
PROBE_WITHIN_S = 2.0
LINES_KEPT = 200


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""


class Fleet:
    """The instances of `plans`; `progress` shows how they come up."""

    def __init__(
        self, plans: Sequence[InstancePlan], progress: Progress, say: Callable[[str], None]
    ) -> None:
        self._plans, self._progress, self._say = plans, progress, say
        self._lifeline = Lifeline()
        self._children = [self._child(plan) for plan in plans]
        self._own = Tasks(self._note_failure)
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: set[InstancePlan] = set()
        self._output: dict[InstancePlan, deque[str]] = {s: deque(maxlen=LINES_KEPT) for s in plans}
        self._readers: dict[InstancePlan, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def pids(self) -> list[int]:
        """The processes of the instances that run now."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    async def start(self) -> None:
        """Returns when every instance is ready; StartError when one has ended instead."""
        self._refuse_taken_ports()
        self._tasks = [
            self._own.keep(f"the keeper of instance {plan.name}", child.run)
            for plan, child in zip(self._plans, self._children, strict=True)
        ]
        await first_of(self._until_all_ready(), asyncio.wait({self._failed}))
        if self._failed.done():
            raise StartError(self._failed.result())

    async def _until_all_ready(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for plan in self._plans:
                    group.create_task(self._until_ready(plan))
        except* Exception as group_of:
            raise group_of.exceptions[0] from None

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends every instance: asked to at first, killed when time or patience is over."""
        for child in self._children:
            child.stop()
        await first_of(hurry.wait(), self._until_ended(), timeout=within_s)
        for child in self._children:
            child.abandon()
        await first_of(self._until_ended(), timeout=REAPED_WITHIN_S)
        await self._own.close()
        self._lifeline.close()

    async def _until_ended(self) -> None:
        if tasks := [*self._tasks, *self._readers.values()]:
            await asyncio.wait(tasks)

    def _note_failure(self, name: str, error: Exception) -> None:
        self._say(f"a fault in headgate itself: {name} ended: {told(error)}; beginning again")

    def _refuse_taken_ports(self) -> None:
        # Somebody else who answers there must not be taken for our instance.
        for plan in self._plans:
            host = plan.instance.host
            try:
                (bound,) = bind(
                    f"[{host}]:{plan.instance.port}" if ":" in host else plan.instance.address
                )
            except ListenError as error:
                raise StartError(f"backend {plan.backend}: {error}") from None
            bound.close()

    async def _until_ready(self, plan: InstancePlan) -> None:
        self._progress.begin(plan)
        health = Health(path=plan.health_path, timeout_s=PROBE_WITHIN_S)
        target = Target(plan.instance.host, plan.instance.port, health)
        # Nobody will tell us: the instance can only be asked.
        while await probe(target) != "ready":  # noqa: ASYNC110
            await asyncio.sleep(ASK_EVERY_S)
        self._ready.add(plan)
        self._progress.finish(plan)
        for line in self._output[plan]:
            self._relay(plan, line)

    def _child(self, plan: InstancePlan) -> Child:
        return Child(
            lambda: Command(
                # The instance knows nothing of us; tied, it cannot outlive us either.
                this_program("_tied", *plan.argv),
                environment={**python_path(*plan.folders), "PYTHONUNBUFFERED": "1"},
                relayed=True,
                foreign=True,
            ),
            self._lifeline,
            started=partial(self._on_start, plan),
            ended=partial(self._on_end, plan),
        )

    def _on_start(self, plan: InstancePlan, _pid: int, output: asyncio.StreamReader | None) -> None:
        assert output is not None
        self._readers[plan] = self._own.keep(
            f"the output of instance {plan.name}", partial(self._read, plan, output)
        )

    async def _on_end(self, plan: InstancePlan, exit: Exit) -> bool:
        # What it said last explains its end, and may still be on its way.
        await asyncio.wait({self._readers[plan]}, timeout=1.0)
        if plan not in self._ready:
            if not self._failed.done():
                self._failed.set_result(self._explain(plan, exit))
            return False
        pause = f" in {exit.pause_s:g} s" if exit.pause_s else ""
        self._say(f"instance {plan.name} {exit}; starting it again{pause}")
        return True

    def _explain(self, plan: InstancePlan, exit: Exit) -> str:
        words = [line.strip() for line in self._output[plan] if line.strip()]
        reason = words[-1].removeprefix("headgate instance: ") if words else f"it {exit}"
        if exit.code < 0:
            reason = f"it {exit}"
        return f"backend {plan.backend}: model {plan.model} could not be started: {reason}"

    async def _read(self, plan: InstancePlan, output: asyncio.StreamReader) -> None:
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
            if plan in self._ready:
                self._relay(plan, text)
            else:
                self._output[plan].append(text)

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

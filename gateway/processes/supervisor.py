"""Which processes make up a running gateway, and what happens when one of them dies?

The supervisor owns what must survive its children: the listening sockets and the socket at
which workers open their channels. It starts one control process and a worker per slot,
starts again whichever dies, and stops them in order: workers drain first, control last, so
that edits and metrics work until the end. It refuses to know anything of tables, requests or
edits; it is small so that it has no reason to fail.

To each control process it holds a *line* (`gateway.wire.line`).
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

from gateway.processes import signals
from gateway.processes.children import (
    FAULT,
    REAPED_WITHIN_S,
    Child,
    Command,
    Exit,
    OnDemand,
    this_program,
)
from gateway.processes.control_line import ControlLine
from gateway.processes.hot_restart import HotRestart, Replaceable
from gateway.processes.inherited import Inherited
from gateway.processes.leaving import end, follow, is_there
from gateway.processes.lifeline import Lifeline
from gateway.processes.plan import Plan
from gateway.processes.service_manager import NOBODY, ServiceManager
from gateway.processes.sockets import listen
from gateway.processes.tasks import Tasks, first_of, told
from gateway.wire.channel import pass_over
from gateway.wire.line import ForFleet, FromControl, Ready, ToControl

TRIES_AT_START = 5
SILENCE_S = 20.0
"""A control process says that it is alive each second; one that does not for so long hangs."""

LAST_WORDS_S = 1.0
HURRIED_S = 0.6  # of the second in which everything ends that is told to end twice
AGAIN_S = 0.5
HOLDS_INSTANCES = (
    "`headgate up` is the parent of its instances, which would end with it; run those by themselves"
    " (headgate instance) and `headgate gateway` before them, which can be replaced"
)
BEFORE = (
    "workers of the gateway before this one still finish what they have; ask again when they have"
    " (`lame_duck` and `drain` say how long they may)"
)


class Supervisor(Replaceable):
    """Runs a gateway until `stop`; `on_ready(facts)` is called once, when it serves. What it says
    of instances is for whoever starts them (`for_fleet`, `tell`)."""

    def __init__(
        self,
        plan: Plan,
        *,
        on_ready: Callable[[Ready], None],
        say: Callable[[str], None],
        for_fleet: Callable[[ForFleet], None] = lambda message: None,
        program: Callable[..., list[str]] = this_program,
        silence_s: float = SILENCE_S,
        manager: ServiceManager = NOBODY,
    ) -> None:
        self._plan = plan
        self._on_ready, self._for_fleet, self._say = on_ready, for_fleet, say
        self._manager = manager
        self._lifeline = Lifeline()
        self._inherited = Inherited(plan, program)
        self.directory = self._inherited.directory
        self._stop_asked, self._hurry = asyncio.Event(), asyncio.Event()
        self._ready, self._code, self._number = False, 0, signal.SIGTERM
        self._shall_reload = self._is_late = False
        self._control_end: socket.socket | None = None
        self._control = self._child("control", self._control_command)
        self._control_task: asyncio.Task[None]
        self._workers = [self._worker(slot) for slot in range(self._inherited.workers)]
        self._compare = OnDemand(
            lambda: self._child("compare", self._inherited.compare), partial(self._run, "compare")
        )
        self._leaving: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._owned = Tasks(self._note_failure)
        self._line = ControlLine(
            self._owned,
            opened=self._tell_workers,
            hear=self._hear,
            replace=self._replace_control,
            silence_s=silence_s,
        )
        self._replaced_by = 0
        self._before = [] if plan.before is None else [*plan.before.pids]
        self._restart = HotRestart(
            self, self.directory.path, len(self._workers), [*plan.arguments], manager.environment,
            self._owned, say,
        )  # fmt: skip

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """The first call drains; the second ends everything now.

        `number` is passed on to the workers: after SIGTERM they announce their end for a
        while before they stop to listen; after SIGINT, which a person sends who waits for
        the prompt, they do not.
        """
        if self._stop_asked.is_set():
            self._hurry.set()
        else:
            self._number = number
        self._restart.abandon()
        self._stop_asked.set()

    def reload(self) -> None:
        """Has the file read again, as `headgate apply` would, and the logs opened anew; as soon
        as there is a control process that serves."""
        self._shall_reload = not self._line.is_open or not self._ready
        if not self._shall_reload:
            self._line.tell({"type": "reload"})

    def reopen(self) -> None:
        """Has the access log opened anew, for one that was moved away."""
        self._line.tell({"type": "reopen"})

    def tell(self, message: ToControl) -> None:
        """Passes `message` on to the control process; lost while there is none, and whichever comes
        next says first what is to be served."""
        self._line.tell(message)

    async def run(self) -> int:
        """The exit code, when every process has ended and every socket is closed."""
        listen((*self._plan.data, self._plan.admin))
        self._control_task = self._run("control", self._control)
        self._owned.keep("the way to a successor", self._restart.serve)
        if self._before:
            self._owned.run("the workers before", follow(self._before, self._note_before))
        if self._manager.watchdog_s:
            self._owned.run("the watchdog", self._watch_over())
        # The control process begins first: whatever worker it then finds was started later
        # and serves nothing before it got a table.
        for slot, worker in enumerate(self._workers):
            self._tasks.append(self._run(f"worker {slot}", worker))
        try:
            await self._stop_asked.wait()
            await self._drain()
            self._control.stop()
            self._compare.want(False)
            await self._ended([self._control_task], LAST_WORDS_S)
        finally:
            for child in (*self._workers, *self._leaving, self._control):
                child.abandon()
            self._compare.abandon()
            ending = {self._control_task, *self._tasks, *self._compare.tasks}
            await first_of(asyncio.wait(ending), timeout=REAPED_WITHIN_S)
            await self._owned.close()
            self._close()
        return self._code

    async def _drain(self) -> None:
        self._tell_workers()  # that nobody comes after them
        # Ours are copies. With them closed, a worker that stops listening at the end of its
        # lame duck really refuses, instead of leaving clients in a backlog nobody reads.
        for bound in self._plan.data:
            bound.close()
        # Before it serves, a worker may be Python alone that is being loaded, to which SIGINT is
        # a crash with a traceback; and there is nobody yet to whom it could announce its end.
        number = self._number if self._ready else signal.SIGTERM
        if self._replaced_by:
            self._owned.run("sending the workers away", self._send_away())
        else:
            self._manager.notify("STOPPING=1")
        for worker in self._workers:
            if self._replaced_by:
                worker.let_go()
            else:
                worker.stop(number)
        await self._ended(self._tasks, self._plan.drain_timeout_s)
        # Told a second time they cut off what they have, and write down what became of it.
        for worker in (*self._workers, *self._leaving):
            worker.signal(signal.SIGTERM)
        await first_of(asyncio.wait(self._tasks), timeout=HURRIED_S)

    # -- a successor

    @property
    def irreplaceable(self) -> str:
        """Why no successor may replace this gateway, in a line; "" if one may."""
        if self._plan.placed is not None:
            return HOLDS_INSTANCES
        if os.getpid() == 1:
            return "this gateway is process 1 of its container, which ends with it: replace that"
        if self._stop_asked.is_set():
            return "this gateway was told to stop"
        if any(map(is_there, self._before)):  # whoever follows could not tell them of edits
            return BEFORE
        return "" if self._ready else "this gateway is not ready itself"

    @property
    def given(self) -> tuple[bool, bool]:
        return self._plan.given

    @property
    def deciding(self) -> list[int]:
        return [pid for worker in (*self._workers, *self._leaving) if (pid := worker.pid)]

    def _note_before(self, left: Sequence[int]) -> None:
        self._before = [*left]
        self._tell_workers()

    def offered(self, shares: bool) -> tuple[list[socket.socket], list[int]]:
        return self._inherited.offered(shares)

    async def yield_state(self) -> None:
        self._control.stop()
        await first_of(asyncio.wait([self._control_task]), timeout=REAPED_WITHIN_S)
        self._control.abandon()
        await asyncio.wait([self._control_task])

    async def take_back_state(self) -> None:
        await self.yield_state()  # which took too long, where that is why it is taken back
        if not self._stop_asked.is_set():
            self._control = self._child("control", self._control_command)
            self._control_task = self._run("control", self._control)

    def hand_over(self, pid: int) -> None:
        self._replaced_by = pid
        self._manager.notify(f"MAINPID={pid}")
        self._stop_asked.set()

    async def _send_away(self) -> None:
        """Tells the workers that a successor accepts, with the signal that nginx has for it; again
        and again, for one that has only begun hears nothing yet."""
        while True:
            for worker in self._workers:
                worker.signal(signal.SIGWINCH)
            await asyncio.sleep(AGAIN_S)

    async def _watch_over(self) -> None:
        """Tells the service manager that this loop runs, as long as it is the main one's."""
        while not self._replaced_by:
            self._manager.notify("WATCHDOG=1")
            await asyncio.sleep(self._manager.watchdog_s / 3)

    async def _ended(self, tasks: Sequence[asyncio.Task[None]], within_s: float) -> None:
        """Waits until `tasks` are done, `within_s` are over or a second signal hurries."""
        await first_of(self._hurry.wait(), asyncio.wait(tasks), timeout=within_s)

    def _run(self, name: str, child: Child) -> asyncio.Task[None]:
        task = self._owned.keep(f"the keeper of {name}", child.run)
        task.add_done_callback(partial(self._note_end, child))
        return task

    def _note_end(self, child: Child, task: asyncio.Task[None]) -> None:
        if child in self._leaving:
            self._leaving.remove(child)
            self._tasks.remove(task)
            self._tell_workers()

    def _note_failure(self, name: str, error: Exception) -> None:
        """A task of ours failed and is begun again; while starting, that is the end of it."""
        self._say(f"a fault in headgate itself: {name} ended: {told(error)}")
        if not self._ready:
            self._fail()

    def give_up(self) -> None:
        """Ends everything now; the exit code is 1."""
        self._fail()

    def _fail(self) -> None:
        self._code = 1
        self._stop_asked.set()
        self._hurry.set()

    def _worker(self, slot: int) -> Child:
        return self._child(f"worker {slot}", partial(self._inherited.worker, slot))

    def _succeed(self, pid: int) -> None:
        """Starts the successor of a worker that leaves: both accept until it is the only one."""
        for slot, worker in enumerate(self._workers):
            if worker.pid == pid and not self._stop_asked.is_set():
                self._say(f"worker {slot} was told to go; starting another one in its place")
                worker.let_go()
                self._leaving.append(worker)
                self._workers[slot] = self._worker(slot)
                self._tasks.append(self._run(f"worker {slot}", self._workers[slot]))

    def _child(self, name: str, command: Callable[[], Command]) -> Child:
        def started(pid: int, _output: asyncio.StreamReader | None) -> None:
            if name == "control":
                self._take_up_line()
            self._tell_workers()

        async def ended(exit: Exit) -> bool:
            return self._judge(name, exit)

        return Child(command, self._lifeline, started=started, ended=ended)

    def _judge(self, name: str, exit: Exit) -> bool:
        """Whether a child that ended shall be started again; fails the start if it is one."""
        self._tell_workers()
        is_needed = name != "compare"  # requests are served without
        if is_needed and not self._ready and exit.code == FAULT:
            self._fail()
            return False
        if is_needed and not self._ready and exit.deaths >= TRIES_AT_START:
            self._say(f"{name} {exit} {exit.deaths} times in a row while starting; giving up")
            self._fail()
            return False
        pause = f" in {exit.pause_s:g} s" if exit.pause_s else ""
        self._say(f"{name} {exit}; starting it again{pause}")
        return True

    def _control_command(self) -> Command:
        self._our_end, self._control_end = socket.socketpair()
        self._our_end.setblocking(False)
        end, before = self._control_end, bool(self._before)
        return self._inherited.control(end, again=self._ready, late=self._is_late, before=before)

    def _take_up_line(self) -> None:
        assert self._control_end is not None
        self._control_end.close()
        self._line.take_up(self._our_end)

    def _replace_control(self, why: str) -> None:
        self._say(f"the control process {why}; replacing it")
        self._control.kill()

    def _hear(self, message: FromControl) -> None:
        match message["type"]:
            case "ready":
                if not self._ready:
                    self._ready = True
                    self._on_ready(message)
                    self._manager.notify("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving")
                if self._shall_reload:
                    self.reload()
            case "late":
                self._is_late = message["late"]
            case "replace":
                for worker in (*self._workers, *self._leaving):
                    if worker.pid == message["pid"]:
                        worker.kill()
                if message["pid"] in self._before:
                    end(message["pid"])
            case "leaving":
                self._succeed(message["pid"])
            case "compare":
                if message["hangs"]:
                    self._say("the compare process does not answer; replacing it")
                    self._compare.kill()
                self._compare.want(message["wanted"] and not self._stop_asked.is_set())
            case "alive":
                self._line.tell_dropped()
            case "serves" | "ask_logs" | "restart" | "wake" | "sleep" | "use" | "settled":
                self._for_fleet(message)
            case _:
                pass_over(message)

    def _tell_workers(self) -> None:
        leaving = [pid for worker in self._leaving if (pid := worker.pid)]
        self._line.tell(
            {
                "type": "workers",
                "pids": [worker.pid for worker in self._workers],
                "leaving": [*leaving, *self._before],
                "stopping": self._stop_asked.is_set(),
            }
        )

    def _close(self) -> None:
        self._inherited.close()
        self._restart.close()
        self._lifeline.close()
        self.directory.close()


async def supervise(supervisor: Supervisor) -> int:
    """Runs `supervisor` under this process's signals: the first drains, the second ends."""
    signals.handle(supervisor.stop, supervisor.reload, supervisor.reopen)
    return await supervisor.run()

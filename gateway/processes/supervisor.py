"""Which processes make up a running gateway, and what happens when one of them dies?

The supervisor owns what must survive its children: the listening sockets and the socket at
which workers open their channels. It starts one control process and a worker per slot,
starts again whichever dies, and stops them in order: workers drain first, control last, so
that edits and metrics work until the end. It refuses to know anything of tables, requests or
edits; it is small so that it has no reason to fail.

To each control process it holds a *line* (`gateway.wire.line`).
"""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.processes import outlet, signals
from gateway.processes.children import FAULT, REAPED_WITHIN_S, Child, Command, Exit, this_program
from gateway.processes.hot_restart import HotRestart, Replaceable
from gateway.processes.leaving import Before, follow
from gateway.processes.lifeline import Lifeline
from gateway.processes.on_demand import OnDemand
from gateway.processes.private_directory import SOCKET, PrivateDirectory
from gateway.processes.service_manager import NOBODY, ServiceManager
from gateway.processes.sockets import address_of, dealt, listen, listen_unix
from gateway.processes.tasks import Tasks, first_of, told
from gateway.telemetry.book import shared_memory
from gateway.wire.channel import Channel, pass_over
from gateway.wire.line import (
    CompareStart,
    ControlStart,
    ForFleet,
    FromControl,
    Ready,
    ToControl,
    WorkerStart,
)
from gateway.wire.pairs import NAME as COMPARE_SOCKET

TRIES_AT_START = 5
SILENCE_S = 20.0
"""A control process says that it is alive each second; one that does not for so long hangs."""

LAST_WORDS_S = 1.0
AGAIN_S = 0.5
HOLDS_INSTANCES = (
    "`headgate up` is the parent of its instances, which would end with it; run those by themselves"
    " (headgate instance) and `headgate gateway` before them, which can be replaced"
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    `configuration` is the file called `name` as it was read at the start, so that a control process
    that takes over hours later does not stumble over an edit of it. `drain_timeout_s` is how long a
    drain may take in all. `state_dir`, whose lock is `state_fd`, is used for what is usually
    temporary where there is no other place to write to. `placed` are the instances that were
    started for each backend; None where nobody starts any. `workers` is how many there are, 0: one
    per socket; `given`: whether those sockets, and that of the admin API, are a service manager's.
    Where there was a gateway before, `memory` is that of loads and of counters, and `before` are
    its workers; `arguments` are those with which one after it is run.
    """

    data: Sequence[socket.socket]
    admin: socket.socket
    configuration: bytes
    name: str
    drain_timeout_s: float
    environment: Mapping[str, str]
    state_dir: Path
    state_fd: int | None = None
    placed: Mapping[str, Sequence[str]] | None = None
    workers: int = 0
    given: tuple[bool, bool] = (False, False)
    memory: tuple[int, int] | None = None
    before: Before | None = None
    arguments: Sequence[str] = ()


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
        self._plan, self._program = plan, program
        self._on_ready, self._for_fleet, self._say = on_ready, for_fleet, say
        self._silence_s, self._manager = silence_s, manager
        self._lifeline = Lifeline()
        self.directory = PrivateDirectory(plan.state_dir)
        self._channel_path = self.directory.path / SOCKET
        self._channels = listen_unix(self._channel_path)
        self._compare_path = self.directory.path / COMPARE_SOCKET
        self._pairs = listen_unix(self._compare_path)
        self._file = self.directory.path / "headgate.yaml"
        self._file.write_bytes(plan.configuration)
        self._permits, self._counters = plan.memory or (
            shared_memory(self.directory.path, "headgate-loads"),
            shared_memory(self.directory.path),
        )
        self._stop_asked, self._hurry = asyncio.Event(), asyncio.Event()
        self._ready, self._code, self._number = False, 0, signal.SIGTERM
        self._line: Channel[ToControl, FromControl] | None = None
        self._told_dropped = 0
        self._shall_reload = False
        self._control_end: socket.socket | None = None
        self._line_task: asyncio.Task[None] | None = None
        self._control = self._child("control", self._control_command)
        self._control_task: asyncio.Task[None]
        self._dealt = dealt(plan.data, plan.workers or len(plan.data))
        self._workers = [self._worker(slot) for slot in range(len(self._dealt))]
        self._compare = OnDemand(
            lambda: self._child("compare", self._compare_command), partial(self._run, "compare")
        )
        self._leaving: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._owned = Tasks(self._note_failure)
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
        self._shall_reload = self._line is None or not self._ready
        if self._line is not None and self._ready:
            self._line.send_soon({"type": "reload"})

    def reopen(self) -> None:
        """Has the access log opened anew, for one that was moved away."""
        if self._line is not None:
            self._line.send_soon({"type": "reopen"})

    def tell(self, message: ToControl) -> None:
        """Passes `message` on to the control process; lost while there is none, and whichever comes
        next says first what is to be served."""
        if self._line is not None:
            self._line.send_soon(message)

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

    # a successor

    @property
    def irreplaceable(self) -> str:
        if self._plan.placed is not None:
            return HOLDS_INSTANCES
        if os.getpid() == 1:
            return "this gateway is process 1 of its container, which ends with it: replace that"
        if self._stop_asked.is_set():
            return "this gateway was told to stop"
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
        plan, memory = self._plan, [self._permits, self._counters] if shares else []
        assert plan.state_fd is not None
        fds = [plan.admin.fileno(), plan.state_fd, self._channels.fileno(), *memory]
        return [*plan.data], fds

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
        return self._child(f"worker {slot}", partial(self._worker_command, slot))

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
        plan = self._plan
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._control_end, self._our_end = theirs, ours
        before = plan.before.channels_fd if plan.before is not None and self._before else None
        start: ControlStart = {
            "file": str(self._file),
            "name": plan.name,
            "state_dir": str(plan.state_dir),
            "listen": address_of(plan.data[0]),
            "directory": str(self.directory.path),
            "admin_fd": plan.admin.fileno(),
            "channels_fd": self._channels.fileno(),
            "before_fd": before,
            "line_fd": theirs.fileno(),
            "state_fd": plan.state_fd,
            "counters_fd": self._counters,
            "workers": len(self._dealt),
            "again": self._ready,
            "placed": plan.placed,
        }
        kept = [fd for fd in (plan.state_fd, before) if fd is not None]
        fds = (start["admin_fd"], start["channels_fd"], start["line_fd"], self._counters, *kept)
        return Command(self._program("_control", json.dumps(start)), fds, plan.environment)

    def _worker_command(self, slot: int) -> Command:
        start: WorkerStart = {
            "slot": slot,
            "data_fds": [bound.fileno() for bound in self._dealt[slot]],
            "permits_fd": self._permits,
            "counters_fd": self._counters,
            "channel": str(self._channel_path),
            "compare": str(self._compare_path),
        }
        fds = (*start["data_fds"], self._permits, self._counters)
        return Command(self._program("_worker", json.dumps(start)), fds, self._plan.environment)

    def _compare_command(self) -> Command:
        start: CompareStart = {"fd": self._pairs.fileno()}
        program = self._program("_compare", json.dumps(start))
        return Command(program, (start["fd"],), self._plan.environment)

    def _take_up_line(self) -> None:
        """Begins to listen to the control process that was just started."""
        assert self._control_end is not None
        self._control_end.close()
        if self._line_task is not None:
            self._line_task.cancel()
        self._line = None
        self._told_dropped = 0
        self._line_task = self._owned.run("the line to control", self._listen(self._our_end))

    async def _listen(self, ours: socket.socket) -> None:
        line: Channel[ToControl, FromControl]
        self._line = line = Channel(*await asyncio.open_connection(sock=ours))
        self._tell_workers()
        # How long a start may take nobody can say; afterwards silence means something.
        within_s: float | None = None
        try:
            while (message := await self._next(line, within_s)) is not None:
                within_s = self._silence_s
                self._hear(message)
        except Exception as error:
            self._say(f"the control process cannot be understood ({told(error)}); replacing it")
            self._control.kill()
        finally:
            line.close()
            if self._line is line:
                self._line = None

    async def _next(
        self, line: Channel[ToControl, FromControl], within_s: float | None
    ) -> FromControl | None:
        """The next message; kills a control process that hangs."""
        try:
            async with asyncio.timeout(within_s):
                return await line.receive()
        except TimeoutError:
            self._say("the control process does not answer; replacing it")
            self._control.kill()
            return None

    def _hear(self, message: FromControl) -> None:
        match message["type"]:
            case "ready":
                if not self._ready:
                    self._ready = True
                    self._on_ready(message)
                    self._manager.notify("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving")
                if self._shall_reload:
                    self.reload()
            case "replace":
                for worker in (*self._workers, *self._leaving):
                    if worker.pid == message["pid"]:
                        worker.kill()
                if message["pid"] in self._before:
                    os.kill(message["pid"], signal.SIGKILL)
            case "leaving":
                self._succeed(message["pid"])
            case "compare":
                self._compare.want(message["wanted"] and not self._stop_asked.is_set())
            case "alive":
                self._tell_dropped()
            case "serves" | "ask_logs" | "restart" | "wake" | "use" | "settled":
                self._for_fleet(message)
            case _:
                pass_over(message)

    def _tell_dropped(self) -> None:
        lines = outlet.dropped()
        if lines != self._told_dropped and self._line is not None:
            self._told_dropped = lines
            self._line.send_soon({"type": "dropped", "lines": lines})

    def _tell_workers(self) -> None:
        if self._line is not None:
            self._line.send_soon(
                {
                    "type": "workers",
                    "pids": [worker.pid for worker in self._workers],
                    "leaving": [
                        *(pid for worker in self._leaving if (pid := worker.pid)),
                        *self._before,
                    ],
                    "stopping": self._stop_asked.is_set(),
                }
            )

    def _close(self) -> None:
        for bound in (*self._plan.data, self._plan.admin, self._channels, self._pairs):
            bound.close()
        self._restart.close()
        os.close(self._permits)
        os.close(self._counters)
        self._lifeline.close()
        self.directory.close()


async def supervise(supervisor: Supervisor) -> int:
    """Runs `supervisor` under this process's signals: the first drains, the second ends."""
    signals.handle(supervisor.stop, supervisor.reload, supervisor.reopen)
    return await supervisor.run()

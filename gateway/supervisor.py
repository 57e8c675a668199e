"""Which processes make up a running gateway, and what happens when one of them dies?

The supervisor owns what must survive its children: the listening sockets and the socket at
which workers open their channels. It starts one control process and a worker per slot,
starts again whichever dies, and stops them in order: workers drain first, control last, so
that edits and metrics work until the end. It refuses to know anything of tables, requests or
edits; it is small so that it has no reason to fail.

To each control process it holds a *line* (a `Channel` over a socket pair). Down go the
workers' process ids, whenever one changes. Up come `ready`, once, when every worker serves
the first table; `replace`, for a worker that no longer answers; `leaving`, for one that was
told to go and gets its successor while it finishes what it has; and `alive`, each second.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gateway.channel import Channel
from gateway.children import Child, Command, Exit, this_program
from gateway.lifeline import Lifeline
from gateway.private_directory import PrivateDirectory
from gateway.sockets import listen, listen_unix

FAULT = 78
"""The exit code (EX_CONFIG) of a child that has said on stderr why it cannot start: what it
was given is wrong, and starting it again would change nothing."""

TRIES_AT_START = 5
SILENCE_S = 20.0
"""A control process says that it is alive each second; one that does not for so long hangs."""

LAST_WORDS_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    `configuration` is the file as it was read at the start, so that a control process that
    takes over hours later does not stumble over an edit of it. `control` and `worker` are
    the arguments of `python -m gateway` before the ones that the supervisor adds;
    `patience_s` is how long a drain may take in all. `state_dir` is used for what is usually
    temporary where there is no other place to write to.
    """

    data: Sequence[socket.socket]
    admin: socket.socket
    configuration: bytes
    control: Sequence[str]
    worker: Sequence[str]
    patience_s: float
    environment: Mapping[str, str]
    state_dir: Path


class Supervisor:
    """Runs a gateway until `stop`; `on_ready(facts)` is called once, when it serves."""

    def __init__(
        self,
        plan: Plan,
        *,
        on_ready: Callable[[Mapping[str, Any]], None],
        say: Callable[[str], None],
        program: Callable[..., list[str]] = this_program,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._plan, self._program = plan, program
        self._on_ready, self._say = on_ready, say
        self._silence_s = silence_s
        self._lifeline = Lifeline()
        self._directory = PrivateDirectory(plan.state_dir)
        self._channel_path = self._directory.path / "control.sock"
        self._channels = listen_unix(self._channel_path)
        self._file = self._directory.path / "headgate.yaml"
        self._file.write_bytes(plan.configuration)
        self._turns = self._directory.nameless_file()
        self._stop_asked, self._hurry = asyncio.Event(), asyncio.Event()
        self._ready, self._code, self._number = False, 0, signal.SIGTERM
        self._line: Channel | None = None
        self._control_end: socket.socket | None = None
        self._line_task: asyncio.Task[None] | None = None
        self._control = self._child("control", self._control_command)
        self._workers = [self._worker(slot) for slot in range(len(plan.data))]
        self._leaving: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []

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
        self._stop_asked.set()

    async def run(self) -> int:
        """The exit code, when every process has ended and every socket is closed."""
        listen((*self._plan.data, self._plan.admin))
        control = self._run(self._control)
        # The control process begins first: whatever worker it then finds was started later
        # and serves nothing before it got a table.
        for worker in self._workers:
            self._tasks.append(self._run(worker))
        try:
            await self._stop_asked.wait()
            await self._drain()
            self._control.stop()
            await self._ended([control], LAST_WORDS_S)
        finally:
            for child in (*self._workers, *self._leaving, self._control):
                child.abandon()
            await asyncio.gather(control, *self._tasks, return_exceptions=True)
            self._close()
        return self._code

    async def _drain(self) -> None:
        self._tell_workers()  # that nobody comes after them
        # Ours are copies. With them closed, a worker that stops listening at the end of its
        # lame duck really refuses, instead of leaving clients in a backlog nobody reads.
        for bound in self._plan.data:
            bound.close()
        for worker in self._workers:
            worker.stop(self._number)
        await self._ended(self._tasks, self._plan.patience_s)

    async def _ended(self, tasks: Sequence[asyncio.Task[None]], patience_s: float) -> None:
        """Waits until `tasks` are done, `patience_s` are over or a second signal hurries."""
        hurry = asyncio.create_task(self._hurry.wait())
        done = asyncio.create_task(asyncio.wait(tasks))
        try:
            await asyncio.wait(
                {hurry, done}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            hurry.cancel()
            done.cancel()

    def _run(self, child: Child) -> asyncio.Task[None]:
        task = asyncio.create_task(child.run())
        task.add_done_callback(partial(self._note_end, child))
        return task

    def _note_end(self, child: Child, task: asyncio.Task[None]) -> None:
        """Nobody would start a child again whose keeper has failed."""
        if child in self._leaving:
            self._leaving.remove(child)
            self._tasks.remove(task)
            self._tell_workers()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say(f"a fault in headgate itself: {type(error).__name__}: {error}")
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
                self._tasks.append(self._run(self._workers[slot]))

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
        if not self._ready and exit.code == FAULT:
            self._fail()
            return False
        if not self._ready and exit.deaths >= TRIES_AT_START:
            self._say(f"{name} {exit} {exit.deaths} times in a row while starting; giving up")
            self._fail()
            return False
        pause = f" in {exit.pause_s:g} s" if exit.pause_s else ""
        self._say(f"{name} {exit}; starting it again{pause}")
        return True

    def _control_command(self) -> Command:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._control_end = theirs
        self._our_end = ours
        arguments = [
            *self._plan.control,
            *("--file", str(self._file), "--directory", str(self._directory.path)),
            *("--admin-fd", str(self._plan.admin.fileno())),
            *("--channels-fd", str(self._channels.fileno())),
            *("--line-fd", str(theirs.fileno())),
            *("--workers", str(len(self._workers))),
        ]
        if self._ready:
            arguments.append("--again")
        return Command(
            self._program("_control", *arguments),
            (self._plan.admin.fileno(), self._channels.fileno(), theirs.fileno()),
            self._plan.environment,
        )

    def _worker_command(self, slot: int) -> Command:
        bound = self._plan.data[slot]
        arguments = [
            *self._plan.worker,
            *("--slot", str(slot)),
            *("--data-fd", str(bound.fileno())),
            *("--turns-fd", str(self._turns)),
            *("--channel", str(self._channel_path)),
        ]
        return Command(
            self._program("_worker", *arguments),
            (bound.fileno(), self._turns),
            self._plan.environment,
        )

    def _take_up_line(self) -> None:
        """Begins to listen to the control process that was just started."""
        assert self._control_end is not None
        self._control_end.close()
        if self._line_task is not None:
            self._line_task.cancel()
        self._line = None
        self._line_task = asyncio.create_task(self._listen(self._our_end))

    async def _listen(self, ours: socket.socket) -> None:
        self._line = line = Channel(*await asyncio.open_connection(sock=ours))
        self._tell_workers()
        # How long a start may take nobody can say; afterwards silence means something.
        within_s: float | None = None
        try:
            while (message := await self._next(line, within_s)) is not None:
                within_s = self._silence_s
                self._hear(message)
        finally:
            line.close()
            if self._line is line:
                self._line = None

    async def _next(self, line: Channel, within_s: float | None) -> dict[str, Any] | None:
        """The next message; kills a control process that hangs."""
        try:
            async with asyncio.timeout(within_s):
                return await line.receive()
        except TimeoutError:
            self._say("the control process does not answer; replacing it")
            self._control.kill()
            return None

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "ready" and not self._ready:
            self._ready = True
            self._on_ready(message)
        elif message["type"] == "replace":
            for worker in (*self._workers, *self._leaving):
                if worker.pid == message["pid"]:
                    worker.kill()
        elif message["type"] == "leaving":
            self._succeed(message["pid"])

    def _tell_workers(self) -> None:
        if self._line is not None:
            self._line.send_soon(
                {
                    "type": "workers",
                    "pids": [worker.pid for worker in self._workers],
                    "leaving": [pid for worker in self._leaving if (pid := worker.pid)],
                    "stopping": self._stop_asked.is_set(),
                }
            )

    def _close(self) -> None:
        if self._line_task is not None:
            self._line_task.cancel()
        for bound in (*self._plan.data, self._plan.admin, self._channels):
            bound.close()
        os.close(self._turns)
        self._lifeline.close()
        self._directory.close()


async def supervise(supervisor: Supervisor) -> int:
    """Runs `supervisor` under this process's signals: the first drains, the second ends."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Under nohup SIGHUP is ignored, and shall stay so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, supervisor.stop, passed_on(number))
    return await supervisor.run()


def passed_on(number: signal.Signals) -> signal.Signals:
    """What children get for `number`: they know SIGTERM and SIGINT."""
    return signal.SIGINT if number is signal.SIGINT else signal.SIGTERM

"""How is a child process kept running, and how is it stopped?

A `Child` starts its command, waits for its end and starts it again: at once the first time,
then after pauses that grow while it keeps dying, so that a crash loop costs little and a
single crash costs nobody a second. It refuses to know what the command does; the gateway's
own processes and model instances are kept the same way.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.processes.lifeline import Lifeline
from gateway.processes.tasks import first_of

FAULT = 78
"""The exit code (EX_CONFIG) of a child that has said on stderr why it cannot start: what it
was given is wrong, and starting it again would change nothing."""

FIRST_PAUSE_S = 0.25
MAX_PAUSE_S = 5.0
LONG_LIFE_S = 30.0
OURS = "HEADGATE_"  # of variables of the environment
REAPED_WITHIN_S = 10.0  # a killed process that has much memory takes a while to be gone


@dataclass(frozen=True, slots=True)
class Backoff:
    """The deaths in quick succession so far; `after` gives the next one and the pause."""

    deaths: int = 0

    def after(self, lived_s: float) -> tuple["Backoff", float]:
        """The pause in seconds before the next start of what lived for `lived_s`."""
        deaths = 1 if lived_s >= LONG_LIFE_S else self.deaths + 1
        if deaths == 1:
            return Backoff(deaths), 0.0
        return Backoff(deaths), min(FIRST_PAUSE_S * 2.0 ** min(deaths - 2, 16), MAX_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Exit:
    """One end of a child: how, how many there were in quick succession, and the pause in seconds
    before the next start."""

    code: int
    deaths: int
    pause_s: float

    def __str__(self) -> str:
        return ended(self.code)


def ended(code: int) -> str:
    """How a process ended, by its `code`: below 0 it is a signal's."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: `argv`, what it inherits, and what its environment has more than ours. What is
    `foreign` runs code that is not ours, and gets no variable of ours: tokens are among them."""

    argv: Sequence[str]
    fds: Sequence[int] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    relayed: bool = False
    foreign: bool = False


def this_program(*arguments: str) -> list[str]:
    """The argv that runs this very package again; see `python_path`.

    Without `-P` a folder `gateway/` in the user's working directory would be run instead.
    """
    return [sys.executable, "-P", "-m", "gateway", *arguments]


def python_path(*folders: str) -> dict[str, str]:
    """The environment in which `python -P` finds this package, then `folders`, then the rest."""
    home = str(Path(__file__).parents[2])
    installed = Path(home).name in ("site-packages", "dist-packages")
    ahead = [] if installed else [home]
    kept = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*ahead, *folders, *kept]))}


class Child:
    """One process that shall run until it is told to stop.

    `started(pid, output)` is called at each start, with the combined output when the command
    is `relayed`; `ended(exit)` at each end that nobody asked for, and says whether to start
    again.
    """

    def __init__(
        self,
        command: Callable[[], Command],
        lifeline: Lifeline,
        *,
        started: Callable[[int, asyncio.StreamReader | None], None],
        ended: Callable[[Exit], Awaitable[bool]],
    ) -> None:
        self._command = command
        self._lifeline = lifeline
        self._started, self._ended = started, ended
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id while one runs."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Returns when the child has ended and shall not be started again."""
        backoff = Backoff()
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                code = await self._run_once()
            finally:
                self.kill()
                self._process = None
            backoff, pause_s = backoff.after(time.monotonic() - begun)
            if self._stopping.is_set():
                return
            if not await self._ended(Exit(code, backoff.deaths, pause_s)):
                return
            if pause_s:
                await first_of(self._stopping.wait(), timeout=pause_s)

    async def _run_once(self) -> int:
        command = self._command()
        output = writing = None
        try:
            # A pipe of asyncio's own would hold up the news of its end for as long as it is open
            # anywhere, as in a process that it left behind.
            if command.relayed:
                output, writing = await _pipe()
            self._process = process = await self._spawn(command, writing)
        except OSError:  # no memory, no more processes: an end like any other, to be tried again
            return os.EX_OSERR
        finally:
            if writing is not None:
                os.close(writing)
        if self._stopping.is_set():  # asked to stop while the process was being made
            self.signal(signal.SIGTERM)
        self._started(process.pid, output)
        return await process.wait()

    async def _spawn(self, command: Command, output: int | None) -> asyncio.subprocess.Process:
        outer = {
            name: value
            for name, value in os.environ.items()
            if not (command.foreign and name.startswith(OURS))
        }
        return await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(*command.fds, self._lifeline.fd),
            env={**outer, **self._lifeline.environment, **command.environment},
            # A terminal sends Ctrl-C to its whole process group. Only the parent shall get
            # it: the children are stopped in an order, and each with its own whole group.
            start_new_session=True,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Asks the child to end; it is not started again."""
        self._stopping.set()
        self.signal(number)

    def let_go(self) -> None:
        """The child will end by itself; it is not started again."""
        self._stopping.set()

    def kill(self) -> None:
        """Ends the child and all of its process group now."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def abandon(self) -> None:
        """Kills the child; it is not started again."""
        self._stopping.set()
        self.kill()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(number)
            except ProcessLookupError:
                pass


async def _pipe() -> tuple[asyncio.StreamReader, int]:
    """A pipe: what reads it, and the end to write to."""
    reading, writing = os.pipe()
    output = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", 0)
    )
    return output, writing


class OnDemand:
    """One child that runs while it is wanted: `make` makes it, `run` keeps it."""

    def __init__(
        self, make: Callable[[], Child], run: Callable[[Child], asyncio.Task[None]]
    ) -> None:
        self._make, self._run = make, run
        self._child: Child | None = None
        self._running: dict[asyncio.Task[None], Child] = {}

    @property
    def pid(self) -> int | None:
        """The process id while one runs that is wanted."""
        return None if self._child is None else self._child.pid

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """What keeps those that run or end."""
        return set(self._running)

    def want(self, is_wanted: bool) -> None:
        """Has one run from now on, or none."""
        if is_wanted and self._child is None:
            self._child = child = self._make()
            task = self._run(child)
            self._running[task] = child
            task.add_done_callback(self._running.pop)
        elif not is_wanted and self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """Ends the one that is wanted now, and has another one run."""
        if self._child is not None:
            self._child.kill()

    def abandon(self) -> None:
        """Ends all of them now."""
        self._child = None
        for child in self._running.values():
            child.abandon()

"""How does a gateway hand its sockets and its state to another process of its kind?

As Envoy's hot restart and HAProxy's `-x` do it: the successor gets the listening sockets
themselves, over a Unix socket, so that no connection ever meets a closed port and none is lost in
a backlog; both accept until the successor serves. The state has one owner at a time: the control
process of the one that runs ends before the successor's begins, while workers serve on with the
table they have and whoever asks the admin API waits in its backlog. A successor that does not
become ready, for whatever reason, costs nothing but that: everything is taken back.

This is the end of the gateway that runs; `successor` is the other one.
"""

import asyncio
import os
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.processes.tasks import Tasks, first_of, told
from gateway.wire.channel import BadFrame, Channel
from gateway.wire.succession import (
    MEMORY,
    NAME,
    Done,
    FromGateway,
    Offer,
    TakeOver,
    ToGateway,
    Upgrade,
    frame,
)

WITHIN_S = 60.0
ENDS_WITHIN_S = 15.0
STOPS = "the gateway that runs was told to stop"
LOOK_S = 0.05

ToSuccessor = Channel[FromGateway, ToGateway]


class Replaceable(ABC):
    """A gateway that a successor may replace."""

    @property
    @abstractmethod
    def irreplaceable(self) -> str:
        """Why none may, in a line; "" if one may."""

    @property
    @abstractmethod
    def given(self) -> tuple[bool, bool]:
        """Whether its sockets for requests, and that of the admin API, are a service manager's."""

    @property
    @abstractmethod
    def deciding(self) -> list[int]:
        """The processes of its workers: who follows keeps their table up to date."""

    @abstractmethod
    def offered(self, shares: bool) -> tuple[list[socket.socket], list[int]]:
        """The sockets for requests, and the descriptors that follow them in an `offer`."""

    @abstractmethod
    async def yield_state(self) -> None:
        """Ends the control process; returns when nobody writes to the state any more."""

    @abstractmethod
    async def take_back_state(self) -> None:
        """Starts a control process again, once the one is gone that had the state."""

    @abstractmethod
    def hand_over(self, pid: int) -> None:
        """Process `pid` serves: lets this gateway finish what it has, and end."""


class HotRestart:
    """The socket at which successors ask, in the private `directory` of the gateway `of`. It starts
    one if it is asked to, with `arguments`."""

    def __init__(
        self,
        of: Replaceable,
        directory: Path,
        workers: int,
        arguments: list[str],
        environment: Callable[[], Mapping[str, str]],
        own: Tasks,
        say: Callable[[str], None],
    ) -> None:
        self._of, self._directory, self._workers = of, directory, workers
        self._arguments, self._environment = arguments, environment
        self._own, self._say = own, say
        self._bound = socket.socket(socket.AF_UNIX)
        self._bound.setblocking(False)
        self._bound.bind(str(directory / NAME))
        self._bound.listen(8)
        self._talk: ToSuccessor | None = None
        self._within_s, self._stops = WITHIN_S, False
        self._outcome: asyncio.Future[Done | str] | None = None

    async def serve(self) -> None:
        """Answers whoever asks, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._bound)
            self._own.run("a talk with a successor", self._attend(connection))

    def abandon(self) -> None:
        """The gateway is told to stop: a successor that does not serve yet shall not either."""
        self._stops = True
        if self._talk is not None:
            self._talk.send_soon({"type": "failed", "why": STOPS})

    def close(self) -> None:
        self._bound.close()

    async def _attend(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        channel: ToSuccessor = Channel(reader, writer)
        try:
            message = await channel.receive()
            if message is not None and message["type"] == "upgrade":
                await self._upgrade(channel, message)
            elif message is not None and message["type"] == "take_over":
                await self._succeed(channel, connection, message)
            elif message is not None and message["type"] == "failed":
                self._say(f"a successor cannot start: {message['why']}; this gateway serves on")
                self._tell(message["why"])
        except (BadFrame, ConnectionError) as error:
            self._say(f"whoever asks to take over cannot be understood: {told(error)}")
        finally:
            channel.close()

    def _refusal(self) -> str:
        if self._of.irreplaceable:
            return self._of.irreplaceable
        return "" if self._talk is None else "another successor is being started"

    # -- asked to start one

    async def _upgrade(self, channel: ToSuccessor, message: Upgrade) -> None:
        """Starts a successor, and tells what becomes of it."""
        why = self._refusal()
        if not why and self._outcome is not None:
            why = "another successor is being started"
        if why:
            await channel.send({"type": "failed", "why": why})
            return
        self._outcome = outcome = asyncio.get_running_loop().create_future()
        self._within_s = message["within_s"]
        try:
            started = self._start(message)
            while not outcome.done() and started.poll() is None:
                await first_of(asyncio.wait([outcome]), timeout=LOOK_S)
            if not outcome.done():  # it said nothing, or says it at this moment
                await first_of(asyncio.wait([outcome]), timeout=1.0)
            code = started.returncode
            said = outcome.result() if outcome.done() else (
                f"it ended with code {code} before it asked for anything; its own words are in"
                " the gateway's log"
            )  # fmt: skip
        except OSError as error:
            said = f"{message['program'][0]} cannot be run: {error.strerror}"
        finally:
            self._outcome, self._within_s = None, WITHIN_S
        if isinstance(said, str):
            await channel.send({"type": "failed", "why": said})
        else:
            await channel.send(said)

    def _start(self, message: Upgrade) -> "subprocess.Popen[bytes]":
        # In a session of its own, and not by asyncio, whose children end with its loop.
        return subprocess.Popen(  # noqa: S603
            [*message["program"], *self._arguments],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._environment(), **message["environment"]},
            start_new_session=True,
        )

    # -- a successor

    async def _succeed(
        self, channel: ToSuccessor, connection: socket.socket, message: TakeOver
    ) -> None:
        """Gives it what it asks for, in turn; takes all of it back unless it comes to serve."""
        if why := self._refusal():
            await channel.send({"type": "failed", "why": why})
            return
        self._talk, is_yielded, why = channel, False, STOPS
        pid = message["pid"]
        done: Done = {"type": "done", "pid": pid, "before": os.getpid()}
        try:
            self._offer(connection, message)
            async with asyncio.timeout(self._within_s):
                while (answer := await channel.receive()) is not None:
                    if answer["type"] == "yield":
                        is_yielded = True
                        await self._of.yield_state()
                        await channel.send({"type": "yielded"})
                    elif answer["type"] == "serving":
                        if not self._stops:
                            await channel.send(done)  # who is gone by now does not serve
                            why = ""
                        break
                    elif answer["type"] == "failed":
                        why = answer["why"]
                        break
                else:
                    why = "it ended before it was ready; its own words are in the log"
        except TimeoutError:
            why = f"it was not ready within {self._within_s:g} s"
        except (BadFrame, ConnectionError) as error:
            why = f"it cannot be understood: {told(error)}"
        finally:
            if why:
                channel.send_soon({"type": "failed", "why": why})
            self._talk = None
        if not why:
            self._tell(done)
            self._say(f"process {pid} serves now; this one finishes what it has")
            self._of.hand_over(pid)
            return
        await self._is_gone(channel, pid)
        if is_yielded:
            await self._of.take_back_state()
        if self._stops:
            why = STOPS
        else:
            self._say(f"process {pid} does not take over: {why}; this gateway serves on")
        self._tell(why)

    def _offer(self, connection: socket.socket, message: TakeOver) -> None:
        shares = message["memory"] == MEMORY and message["workers"] == self._workers
        data, others = self._of.offered(shares)
        offer: Offer = {
            "type": "offer",
            "pid": os.getpid(),
            "data": len(data),
            "workers": self._of.deciding,
            "shares": shares,
            "given": self._of.given[0],
            "gives_admin": self._of.given[1],
            "directory": str(self._directory),
        }
        fds = [*(each.fileno() for each in data), *others]
        socket.send_fds(connection, [frame(offer)], fds)

    async def _is_gone(self, channel: ToSuccessor, pid: int) -> None:
        """Returns when a successor that shall not be has ended: two must not write to one state."""
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                while await channel.receive() is not None:
                    pass
        except TimeoutError:
            try:
                os.kill(pid, signal.SIGKILL)  # it has the other end open: it lives
            except OSError:
                pass
        except BadFrame:
            pass

    def _tell(self, outcome: Done | str) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

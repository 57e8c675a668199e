"""One worker process: how it is started, spoken to and ended.

One object is one life of a worker, from its start to its exit; the driver makes the next.
What its messages mean for the queue is the driver's.
"""

import asyncio
import json
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import instance.devices as devices
from instance.settings import SHUTDOWN_VARIABLE, Settings
from instance.wire import arena, lifeline
from instance.wire.arena import Arena, Room
from instance.wire.frames import Body, Decoder, Frame, pack
from instance.wire.marks import DROPPED, Marks, mapped
from instance.wire.messages import Left, StartOptions

Sent = TypeVar("Sent", bound=tuple[Any, ...])
Received = TypeVar("Received", bound=tuple[Any, ...])
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
_OURS = "HEADGATE_"
_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # descriptors that a model may have


class WorkerProcess(asyncio.BufferedProtocol, Generic[Sent, Received]):
    """One life of a worker. `gone` is done once it has exited and all it sent was read."""

    def __init__(
        self, on_frame: Callable[[Frame[Received]], None], module: str = "instance.model.worker"
    ) -> None:
        self._on_frame = on_frame
        self._module = module
        self._decoder = Decoder(self._room)
        self._answers: Arena | None = None  # where the worker puts large ones
        self.marks: Marks | None = None  # what it has begun; readable when it has gone
        self._transport: asyncio.Transport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline = -1
        self._closed = asyncio.get_running_loop().create_future()

    @property
    def log_dropped(self) -> int:
        """Lines of its log that nobody read in time."""
        return self.marks[DROPPED] if self.marks is not None else 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(
        self, settings: Settings, device: str, requests: int | None, number: int = 0
    ) -> None:
        """Starts the interpreter; what comes of the model is told by its messages.

        `requests` is the file of the arena where large requests lie; `number` is
        the worker's among those of the instance."""
        ours, theirs = socket.socketpair()
        pipe, self._lifeline = os.pipe()
        answers = None if requests is None else arena.new_file()
        if answers is not None:
            self._answers = Arena(answers)
        marks = arena.new_file(mmap.PAGESIZE)
        if marks is not None:
            self.marks = mapped(marks)
        options = _options(settings, device, pipe, theirs.fileno(), [requests, answers], marks)
        given = [file for file in (pipe, answers, marks) if file is not None]
        try:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: self, ours)
            inherited = [theirs.fileno(), *given, *([] if requests is None else [requests])]
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *(("-P",) if sys.flags.safe_path else ()),
                "-m", self._module, json.dumps(options),
                pass_fds=inherited,
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(settings, device, os.environ, number),
            )  # fmt: skip
        except OSError:
            self._let_go()
            raise
        finally:
            theirs.close()
            for file in given:
                os.close(file)

    def send(self, message: Sent, blobs: list[Body] | None = None) -> None:
        """Queues a message; lost, as the worker then is, when it has gone."""
        if self._transport is not None and not self._transport.is_closing():
            buffers = pack(message, blobs)
            if len(buffers) == 1:
                self._transport.write(buffers[0])
            else:
                self._transport.writelines(buffers)

    def kill(self) -> None:
        """Ends it at once, whatever it is doing."""
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(signal.SIGKILL)
            except ProcessLookupError:
                pass

    async def gone(self) -> str:
        """Waits for its end and says how it ended."""
        assert self._process is not None
        exited = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({exited, self._closed}, return_when=asyncio.FIRST_COMPLETED)
        if exited.done():
            # What the model forked ends with its worker, and lets go of the socket.
            self._end_rest()
            await asyncio.wait({self._closed}, timeout=1.0)
        else:
            await asyncio.wait({exited}, timeout=5.0)
            self.kill()
        code = await exited
        self._end_rest()
        if self._transport is not None:
            self._transport.abort()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _end_rest(self) -> None:
        """Ends what the model started and is still there."""
        assert self._process is not None
        self._let_go()
        lifeline.end_group(self._process.pid)

    def _let_go(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape only

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _room(self, offset: int, size: int) -> Room:
        """A large answer: it stays where the worker put it until it is written."""
        assert self._answers is not None
        return self._answers.room(offset, size, self._leave)

    def _leave(self, offset: int, size: int) -> None:
        left: Left = ("left", offset, size)
        self.send(cast(Any, left))  # whoever has an arena knows it

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self._decoder.updated(nbytes):
            self._on_frame(frame)


def _options(
    settings: Settings,
    device: str,
    lifeline_fd: int,
    socket_fd: int,
    arenas: list[int | None],
    marks: int | None,
) -> StartOptions:
    """What the process is started with: the descriptors, and what of `settings` is the model's."""
    return {
        "lifeline": lifeline_fd,
        "socket": socket_fd,
        "arenas": arenas,
        "marks": marks,
        "files": _FILES,
        "model": settings.model,
        "arguments": settings.arguments,
        "api": settings.api,
        "args": dict(settings.args or {}),
        "device": device,
        "threads": settings.worker_threads(),
        "attributes": settings.attributes(),
    }


def environment(
    settings: Settings, device: str, outer: Mapping[str, str], number: int = 0
) -> dict[str, str]:
    """A worker's environment: its own GPU, its share of the cores, and how it may load. Variables
    of ours stay out: tokens of the gateway are among them, and a model is not ours."""
    threads = str(settings.worker_threads())
    shares = dict.fromkeys(_THREAD_VARIABLES, threads)
    loading = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"} if settings.weights_only else {}
    theirs = {name: value for name, value in outer.items() if not name.startswith(_OURS)}
    named = {"LITSERVE_WORKER_ID": str(number)}  # models of LitServe tell their workers apart by it
    stops = {SHUTDOWN_VARIABLE: settings.shutdown_key} if settings.shutdown_key else {}
    return {**shares, **theirs, **loading, **named, **stops, **devices.visible(device, outer)}

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
from typing import Any

from gateway.children import Child, Command, Exit, python_path, this_program
from gateway.controlplane.prober import Target, probe
from gateway.core.table import Health
from gateway.lifeline import Lifeline
from gateway.progress import Progress
from gateway.serving import Serving
from gateway.sockets import ListenError, bind

ASK_EVERY_S = 0.1
PROBE_WITHIN_S = 2.0
LINES_KEPT = 200
LINE_LIMIT = 1 << 20


class StartError(Exception):
    """An instance that did not become ready; the text is one clear line."""


class Fleet:
    """The instances of `servings`; `progress` shows how they come up."""

    def __init__(
        self, servings: Sequence[Serving], progress: Progress, say: Callable[[str], None]
    ) -> None:
        self._servings, self._progress, self._say = servings, progress, say
        self._lifeline = Lifeline()
        self._children = [self._child(serving) for serving in servings]
        self._tasks: list[asyncio.Task[None]] = []
        self._ready: set[Serving] = set()
        self._output: dict[Serving, deque[str]] = {s: deque(maxlen=LINES_KEPT) for s in servings}
        self._readers: dict[Serving, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Returns when every instance is ready; StartError when one has ended instead."""
        self._refuse_taken_ports()
        self._tasks = [asyncio.create_task(child.run()) for child in self._children]
        asking = asyncio.gather(*(self._until_ready(serving) for serving in self._servings))
        try:
            first: set[asyncio.Future[Any]] = {asking, self._failed}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                raise StartError(self._failed.result())
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def stop(self, patience_s: float, hurry: asyncio.Event) -> None:
        """Ends every instance: asked to at first, killed when time or patience is over."""
        for child in self._children:
            child.stop()
        hurried = asyncio.create_task(hurry.wait())
        ended = asyncio.ensure_future(asyncio.gather(*self._tasks, return_exceptions=True))
        first: set[asyncio.Future[Any]] = {hurried, ended}
        await asyncio.wait(first, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for child in self._children:
            child.abandon()
        await asyncio.gather(ended, *self._readers.values(), return_exceptions=True)
        self._lifeline.close()

    def _refuse_taken_ports(self) -> None:
        # Somebody else who answers there must not be taken for our instance.
        for serving in self._servings:
            host = serving.instance.host
            try:
                (bound,) = bind(
                    f"[{host}]:{serving.instance.port}" if ":" in host else serving.instance.address
                )
            except ListenError as error:
                raise StartError(f"backend {serving.backend}: {error}") from None
            bound.close()

    async def _until_ready(self, serving: Serving) -> None:
        self._progress.begin(serving)
        health = Health(path=serving.health_path, timeout_s=PROBE_WITHIN_S)
        target = Target(serving.instance.host, serving.instance.port, health)
        # Nobody will tell us: the instance can only be asked.
        while await probe(target) != "ready":  # noqa: ASYNC110
            await asyncio.sleep(ASK_EVERY_S)
        self._ready.add(serving)
        self._progress.finish(serving)
        for line in self._output[serving]:
            self._relay(serving, line)

    def _child(self, serving: Serving) -> Child:
        return Child(
            lambda: Command(
                # The instance knows nothing of us; tied, it cannot outlive us either.
                this_program("_tied", *serving.argv),
                environment={**python_path(*serving.folders), "PYTHONUNBUFFERED": "1"},
                relayed=True,
            ),
            self._lifeline,
            started=partial(self._on_start, serving),
            ended=partial(self._on_end, serving),
        )

    def _on_start(self, serving: Serving, _pid: int, output: asyncio.StreamReader | None) -> None:
        assert output is not None
        self._readers[serving] = asyncio.create_task(self._read(serving, output))

    async def _on_end(self, serving: Serving, exit: Exit) -> bool:
        # What it said last explains its end, and may still be on its way.
        await asyncio.wait({self._readers[serving]}, timeout=1.0)
        if serving not in self._ready:
            if not self._failed.done():
                self._failed.set_result(self._explain(serving, exit))
            return False
        pause = f" in {exit.pause_s:g} s" if exit.pause_s else ""
        self._say(f"instance {serving.name} {exit}; starting it again{pause}")
        return True

    def _explain(self, serving: Serving, exit: Exit) -> str:
        words = [line.strip() for line in self._output[serving] if line.strip()]
        reason = words[-1].removeprefix("headgate instance: ") if words else f"it {exit}"
        if exit.code < 0:
            reason = f"it {exit}"
        return f"backend {serving.backend}: model {serving.model} could not be started: {reason}"

    async def _read(self, serving: Serving, output: asyncio.StreamReader) -> None:
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
            if serving in self._ready:
                self._relay(serving, text)
            else:
                self._output[serving].append(text)

    def _relay(self, serving: Serving, line: str) -> None:
        self._progress.relay(f"{serving.backend}:{serving.instance.port} | {line}")


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1

"""How does one command bring up a whole file: its instances and the gateway before them?

`headgate up` reads the file and takes the ports first, for that is quick and may fail; then
it starts the instances, waits until each is ready, and becomes the gateway's supervisor. It
stops in the opposite order: the gateway drains while its instances still answer, they come
last. However it ends, nothing it started is left running.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from gateway.app import CannotStart, Prepared, announce, prepare
from gateway.console import say
from gateway.core.table import Table
from gateway.fleet import Fleet, StartError, cpu_count
from gateway.progress import Progress, progress
from gateway.serving import ServeError, Serving, plan
from gateway.supervisor import Supervisor, passed_on

INSTANCE_PATIENCE_S = 10.0


def run_up(file: str | os.PathLike[str], state_dir: str | os.PathLike[str]) -> int:
    """The exit code, once everything that `file` describes has been stopped."""
    try:
        prepared = prepare(Path(file), Path(state_dir))
    except CannotStart as error:
        for line in str(error).splitlines():
            say(line)
        return 1
    try:
        table = Table.from_document(prepared.document, 0)
        servings = plan(table, Path(file), Path.cwd(), cpu_count())
    except ServeError as error:
        say(str(error))
        prepared.close()
        return 1
    return asyncio.run(_launch(prepared, servings))


async def _launch(prepared: Prepared, servings: Sequence[Serving]) -> int:
    return await Launch(prepared, servings, progress()).run()


class Launch:
    """One run of `headgate up`."""

    def __init__(self, prepared: Prepared, servings: Sequence[Serving], progress: Progress) -> None:
        self._prepared, self._progress = prepared, progress
        self._fleet = Fleet(servings, progress, say)
        self._supervisor: Supervisor | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """The exit code, when nothing runs any more."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.stop, passed_on(number))
        try:
            return await self._start_and_serve()
        except StartError as error:
            self._prepared.close()
            self._progress.close()
            say(str(error))
            self._hurry.set()
            return 1
        finally:
            self._progress.close()
            await self._fleet.stop(INSTANCE_PATIENCE_S, self._hurry)

    def stop(self, number: signal.Signals) -> None:
        """The first call stops in order, the second at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.stop(number)

    async def _start_and_serve(self) -> int:
        if not await self._start_instances():
            self._prepared.close()
            return 0
        self._progress.close()
        self._supervisor = Supervisor(
            self._prepared.plan,
            on_ready=lambda facts: announce(self._prepared, facts),
            say=say,
        )
        if self._stop.is_set():
            self._supervisor.stop()
        return await self._supervisor.run()

    async def _start_instances(self) -> bool:
        """Whether every instance became ready before somebody asked to stop."""
        starting = asyncio.create_task(self._fleet.start())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                return True
            return False
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

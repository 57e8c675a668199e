"""How does one command bring up a whole file: its instances and the gateway before them?

`headgate up` reads the file and takes the ports first, for that is quick and may fail; then
it starts the instances, waits until each is ready, and becomes the gateway's supervisor. It
stops in the opposite order: the gateway drains while its instances still answer, they come
last. However it ends, nothing it started is left running.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gateway.app import CannotStart, Prepared, announce, prepare
from gateway.core.table import Table
from gateway.processes import signals
from gateway.processes.console import say, take_over
from gateway.processes.supervisor import Supervisor
from gateway.processes.tasks import first_of, told
from gateway.up import screen
from gateway.up.fleet import Fleet, StartError, cpu_count
from gateway.up.plan import InstancePlan, ServeError, plan
from gateway.up.progress import Progress, progress
from gateway.wire.line import Ready

INSTANCE_DRAIN_S = 10.0


def run_up(
    file: str | os.PathLike[str],
    state_dir: str | os.PathLike[str],
    access_log: str | None = None,
) -> int:
    """The exit code, once everything that `file` describes has been stopped. `access_log` counts
    before what the file says of it."""
    if access_log is not None:
        os.environ[screen.ACCESS_LOG] = access_log
    try:
        prepared = prepare(Path(file), Path(state_dir))
    except CannotStart as error:
        for line in str(error).splitlines():
            say(line)
        return 1
    try:
        table = Table.from_document(prepared.document, 0)
        plans = plan(table, Path(file), Path.cwd(), cpu_count())
    except ServeError as error:
        say(str(error))
        prepared.close()
        return 1
    take_over()
    return asyncio.run(_launch(prepared, plans))


async def _launch(prepared: Prepared, plans: Sequence[InstancePlan]) -> int:
    if not screen.is_wanted():
        announced = partial(announce, prepared)
        return await Launch(prepared, plans, progress(), announced).run()
    shown = screen.Screen(prepared)
    try:
        return await Launch(prepared, plans, shown, shown.announce, shown.stopping).run()
    finally:
        shown.end()


class Launch:
    """One run of `headgate up`."""

    def __init__(
        self,
        prepared: Prepared,
        plans: Sequence[InstancePlan],
        progress: Progress,
        announce: Callable[[Ready], None],
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        self._prepared, self._progress = prepared, progress
        self._announce, self._stopping = announce, stopping
        self._fleet = Fleet(plans, progress, say)
        self._supervisor: Supervisor | None = None
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """The exit code, when nothing runs any more."""
        signals.handle(self.stop, self._reload, self._reopen)
        try:
            return await self._start_and_serve()
        except Exception as error:
            self._prepared.close()
            self._progress.close()
            is_told = isinstance(error, StartError)
            say(str(error) if is_told else f"a fault in headgate itself: {told(error)}")
            self._hurry.set()
            return 1
        finally:
            self._progress.close()
            await self._fleet.stop(INSTANCE_DRAIN_S, self._hurry)

    def stop(self, number: signal.Signals) -> None:
        """The first call stops in order, the second at once."""
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._stopping()
        self._stop.set()
        if self._supervisor is not None:
            self._supervisor.stop(number)

    def _reload(self) -> None:
        if self._supervisor is not None:
            self._supervisor.reload()
        else:
            say("the file was read already; it can be read again once all models are ready")

    def _reopen(self) -> None:
        if self._supervisor is not None:
            self._supervisor.reopen()

    async def _start_and_serve(self) -> int:
        if not await self._start_instances():
            self._prepared.close()
            return 0
        self._progress.close()
        self._supervisor = Supervisor(
            self._prepared.plan,
            on_ready=self._announce,
            say=say,
        )
        if self._stop.is_set():
            self._supervisor.stop()
        return await self._supervisor.run()

    async def _start_instances(self) -> bool:
        """Whether every instance became ready before somebody asked to stop."""
        is_ready = False

        async def start() -> None:
            nonlocal is_ready
            await self._fleet.start()
            is_ready = True

        await first_of(start(), self._stop.wait())
        return is_ready

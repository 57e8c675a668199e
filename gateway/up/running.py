"""Which instance processes are there?

Those that run, and those of which it is remembered why they could not be started. What is wanted of
them is not known here.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gateway.core.placement import Start, Step
from gateway.processes import leftovers
from gateway.processes.children import REAPED_WITHIN_S
from gateway.processes.lifeline import Lifeline
from gateway.processes.tasks import Tasks, first_of
from gateway.up.keeping import Lines
from gateway.up.plan import InstancePlan
from gateway.up.process import InstanceProcess


class Processes:
    """All processes; `changed` is called when one of them changed, `lines` has what they write,
    `say` and `failed` are told what is to be known. What they leave behind bears the `mark`."""

    def __init__(
        self,
        lines: Lines,
        changed: Callable[[InstanceProcess], None],
        say: Callable[[str], None],
        failed: Callable[[str, Exception], None],
        mark: str = "",
    ) -> None:
        self._lines, self._changed, self._say = lines, changed, say
        self._lifeline, self._mark = Lifeline(), mark or secrets.token_hex(8)
        self.own = Tasks(failed)
        self._numbers = 0
        self.all: list[InstanceProcess] = []

    def __iter__(self) -> Iterator[InstanceProcess]:
        return iter(self.all)

    def of(self, backend: str) -> list[InstanceProcess]:
        return [each for each in self.all if each.plan.backend == backend]

    def served(self) -> set[str]:
        """The backends of which a process was ready once."""
        return {each.plan.backend for each in self.all if each.served}

    def backends(self) -> set[str]:
        return {each.plan.backend for each in self.all}

    def pids(self) -> list[int]:
        """Of every process that runs."""
        return [pid for each in self.all if (pid := each.pid) is not None]

    def folders(self) -> dict[str, Path]:
        """Backend → the folder that its code is looked for in."""
        return {
            each.plan.backend: Path(each.plan.folders[0]) for each in self.all if each.plan.folders
        }

    def error(self, backend: str, version: str) -> str | None:
        """Why that version could not be started."""
        for each in self.of(backend):
            if each.state == "failed" and each.version == version:
                return each.error
        return None

    def drop_gone(self) -> None:
        """Forgets those that have ended and are not remembered."""
        self.all = [each for each in self.all if not each.is_gone]

    def numbered(self, number: int) -> InstanceProcess:
        (process,) = (each for each in self.all if each.number == number)
        return process

    def ready(self, backend: str, version: str) -> int:
        """How many of that version are ready."""
        return sum(each.state == "ready" and each.version == version for each in self.of(backend))

    def numbers(
        self, steps: Iterable[Step], version: Callable[[str], str]
    ) -> list[tuple[Start, int]]:
        """Each start among `steps`, with a number that no other process of the `version` of its
        backend has."""
        used: dict[str, set[int]] = {}
        found = []
        for start in steps:
            if not isinstance(start, Start):
                continue
            name, wanted = start.backend, version(start.backend)
            there = {each.index for each in self.of(name) if each.version == wanted}
            own = used.setdefault(name, there)
            index = next(n for n in range(len(own) + 1) if n not in own)
            own.add(index)
            found.append((start, index))
        return found

    def add(self, plan: InstancePlan, version: str, index: int) -> InstanceProcess:
        """A process of `plan` that does not run yet."""
        self._numbers += 1
        process = InstanceProcess(
            self._numbers, version, index, plan, self.own, self._lifeline,
            changed=self._changed, heard=self._lines.keep, relay=self._lines.relay, say=self._say,
            mark=self._mark,
        )  # fmt: skip
        self.all.append(process)
        return process

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends every one: asked to at first, killed when time or patience is over."""
        for process in self.all:
            process.ask_to_end()
        await first_of(hurry.wait(), self._until_ended(), timeout=within_s)
        for process in self.all:
            process.abandon()
        await first_of(self._until_ended(), timeout=REAPED_WITHIN_S)
        await asyncio.to_thread(leftovers.end, f"{self._mark}-")
        await self.own.close()
        self._lifeline.close()

    async def _until_ended(self) -> None:
        for process in list(self.all):
            await process.ended()

"""Which worker processes are there, in which slots, and by which table does each of them decide?

Book-keeping of what the supervisor says, and what the workers say; who is told what is `workers`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from gateway.wire.channel import Channel
from gateway.wire.messages import FromWorker, ToWorker

NO_SLOT = -1
"""From here downwards: the slots of workers of the gateway that this one follows. They are told
of the table while they finish what they have; of what this gateway is made of they are none."""

WorkerChannel = Channel[ToWorker, FromWorker]


@dataclass(slots=True, eq=False)
class ConnectedWorker:
    """One worker as the control process knows it.

    `revision` is what it serves; `told` the revision sent last, `is_whole` whether all of it was,
    and `part` how much of it was taken. `looked` is the last look that it has answered; `heard`
    whether it said anything since the last beat, and `missed` at how many it had not.
    """

    channel: WorkerChannel
    slot: int
    pid: int
    revision: int = 0
    told: int = 0
    is_whole: bool = False
    part: int = 0
    looked: int = 0
    heard: bool = True
    missed: int = 0
    listening: bool = False
    leaving: bool = False
    has_handed_over: bool = False


class WorkerSlots:
    """In one slot there are two processes while a worker that was told to go finishes what it has.

    `connected` are those with a channel, by process; `pids` the process in each slot, None where
    there is none now; `stopping` whether all shall go.
    """

    def __init__(self) -> None:
        self.connected: dict[int, ConnectedWorker] = {}
        self.pids: list[int | None] = []
        self.stopping = False
        self._leaving: set[int] = set()
        self._deciding: set[int] = set()  # whoever may decide requests, connected or not
        self._is_first = True
        self._changed = asyncio.Event()

    def expect(self, pids: Sequence[int | None], leaving: Sequence[int], stopping: bool) -> None:
        """What the supervisor says; those that are `leaving` have a successor.

        Those of the first call were there before this control process, and may decide by any table
        although they never said hello.
        """
        running = {pid for pid in pids if pid is not None} | set(leaving)
        if self._is_first:
            self._is_first = False
            self._deciding |= running
        self.pids, self._leaving, self.stopping = list(pids), set(leaving), stopping
        self._deciding &= running
        self.note_change()

    def join(self, worker: ConnectedWorker) -> None:
        """Takes in a worker that has a channel; one that it had before is closed."""
        before = self.connected.get(worker.pid)
        if before is not None:
            before.channel.close()
        self.connected[worker.pid] = worker
        self._deciding.add(worker.pid)

    def lose(self, worker: ConnectedWorker, is_alive: bool) -> None:
        """Drops a worker whose channel has ended. Of a process that has ended as well nobody may
        speak any more: the supervisor may have told of its end before its last hello was read."""
        del self.connected[worker.pid]
        if not is_alive:
            self._deciding.discard(worker.pid)

    def has(self, worker: ConnectedWorker) -> bool:
        """Whether this is still the channel of its process."""
        return self.connected.get(worker.pid) is worker

    def unheard(self, look: int) -> list[int]:
        """The processes that may have requests, and have not answered that look or a later one."""
        heard = {pid for pid, each in self.connected.items() if each.looked >= look}
        return sorted((self._deciding | set(self.connected)) - heard)

    def in_order(self) -> list[ConnectedWorker]:
        """The workers that are connected, by slot."""
        return sorted(self.connected.values(), key=lambda worker: (worker.slot, not worker.leaving))

    # -- who goes, and who comes

    def lacks_successor(self, pid: int) -> bool:
        """Whether another process has to be started for a worker that leaves."""
        return not self.stopping and pid not in self._leaving

    def replaced(self) -> list[ConnectedWorker]:
        """The workers that leave, and whose slots are in other hands, or shall be in none."""
        workers = self.connected.values()
        taken = {each.slot for each in workers if each.listening and not each.leaving}
        return [each for each in workers if each.leaving and (self.stopping or each.slot in taken)]

    # -- by which table they decide

    def behind(self, revision: int) -> list[int]:
        """The processes that may decide by a table older than `revision`."""
        current = {pid for pid, each in self.connected.items() if each.revision >= revision}
        return sorted((self._deciding | set(self.connected)) - current)

    def serving(self, revision: int) -> int:
        """In how many slots there is a worker that serves `revision`."""
        workers = self.connected.values()
        return len({each.slot for each in workers if each.revision >= revision and each.slot >= 0})

    async def late(self, revision: int, within_s: float) -> list[int]:
        """The processes that decide by an older table and did not come nearer to this one for
        `within_s`; none once all of them serve it. A large one takes them longer."""
        while behind := self.behind(revision):
            before = {pid: self._part(pid) for pid in behind}
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    while self.behind(revision):
                        await self.next_change()
            late = [p for p in self.behind(revision) if p in before and before[p] == self._part(p)]
            if late:
                return late
        return []

    def _part(self, pid: int) -> tuple[int, int]:
        """How far a worker has come: its revision, and the part of the next one."""
        worker = self.connected.get(pid)
        return (worker.revision, worker.part) if worker is not None else (0, 0)

    def note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def next_change(self) -> None:
        await self._changed.wait()

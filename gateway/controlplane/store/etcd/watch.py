"""What do others write, as soon as they do?

Follows all keys of one table: reads how everything is, then watches from there. A watch that ends,
falls behind or is with a member that lost the others is begun again, with another member.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from gateway.controlplane.store.etcd import client as etcd
from gateway.controlplane.store.etcd.client import Client, Entry, beyond
from gateway.controlplane.store.etcd.layout import Head, Keys, name_of, unpacked, unpacked_member
from gateway.controlplane.store.store import Member, NotLetIn, Revision, StoreError, Unavailable
from gateway.processes.tasks import first_of

AT_ONCE = 20  # revisions in one answer
NOT_YET = "etcd was not asked yet"
PAUSES_S = (0.05, 0.4)
MAX_DOUBLED = 4  # times: to hash a password costs etcd a tenth of a second of a processor


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the keys: the head, who is there, who drives which rollout and what was kept
    of each. `away` says why nothing newer is known; empty while the watch runs. `is_past`: what is
    in etcd now is older than that, or another story."""

    head: Head = field(default_factory=Head)
    members: Mapping[str, Member] = field(default_factory=dict)
    drivers: Mapping[str, str] = field(default_factory=dict)
    rollouts: Mapping[str, bytes] = field(default_factory=dict)
    away: str = NOT_YET
    is_past: bool = False


class Past(Unavailable):
    """etcd's data was lost or restored: what was seen is not there any more."""


class Watch:
    """Follows `keys`. `hear` gets each revision after number `after`, with its value, and `look`
    whatever is seen; both on the loop that runs it. A silent watch is doubted every `every_s`
    seconds. `known` is the head that was there before it is asked for."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        every_s: float,
        *,
        look: Callable[[Seen], None] = lambda seen: None,
        known: Head | None = None,
    ) -> None:
        self._known = known or Head()
        self._client, self._keys, self._every_s = client, keys, every_s
        self._head_key = etcd.b64(keys.head)
        self._look = look
        self.seen = Seen()
        self.changed = asyncio.Event()
        self._hear: Callable[[Revision, bytes], None] = lambda revision, value: None
        self._number: int | None = None  # of the newest revision that was heard; None: nobody asks
        self._read_up_to = 0

    async def follow(self, after: int, hear: Callable[[Revision, bytes], None]) -> None:
        """Has `hear` called from now on."""
        self._hear, self._number = hear, after
        if self.seen.head.number > after:
            await self._catch_up(self.seen.head)

    async def run(self) -> None:
        """Watches until cancelled; who is not let in asks ever more seldom."""
        refused = 0
        while True:
            try:
                await self._once()
            except StoreError as error:
                refused = 0 if not self.seen.away else refused
                refused = refused + 1 if isinstance(error, NotLetIn) else 0
                is_past = isinstance(error, Past)
                self._note(replace(self.seen, away=str(error), is_past=is_past))
            pause_s = random.uniform(*PAUSES_S)  # noqa: S311 -- spreads gateways
            await asyncio.sleep(pause_s * 2 ** min(refused, MAX_DOUBLED))

    async def _once(self) -> None:
        self._read_up_to = await self._read()
        await first_of(self._listen(self._read_up_to + 1), self._doubt())

    async def _read(self) -> int:
        """Takes in how everything is; etcd's revision of that."""
        seen, revision = await self._asked()
        self._check(seen.head)
        await self._catch_up(seen.head)
        self._note(seen)
        return revision

    async def _asked(self) -> tuple[Seen, int]:
        """How everything is, and etcd's revision of that."""
        keys = self._keys
        asked = [etcd.get(keys.head)]
        prefixes = (keys.gateways, keys.rollouts, keys.kept_rollouts)
        asked += [etcd.get(each, beyond(each)) for each in prefixes]
        answer = await etcd.transact(self._client, asked)
        heads, *others = answer.found
        head = Head.read(heads[0].value, heads[0].revision) if heads else Head()
        seen = Seen(head, away="")
        for entry in chain.from_iterable(others):
            seen = self._after(seen, entry)
        return seen, answer.revision

    def _check(self, head: Head) -> None:
        """Raises Past where `head` does not follow what was seen."""
        seen, why = self.seen.head if self.seen.head.number else self._known, ""
        if head.number < seen.number:
            why = f"etcd's newest revision is {head.number}, and {seen.number} was there"
        elif head.number == seen.number and seen.checksum not in ("", head.checksum):
            why = f"etcd's revision {head.number} is another one than was there"
        if why:
            raise Past(
                f"{why}; its data was lost or restored; start this gateway again to go on with that"
            )

    async def _listen(self, start: int) -> None:
        request = {
            "key": etcd.b64(self._keys.all),
            "range_end": etcd.b64(beyond(self._keys.all)),
            "start_revision": str(start),
        }
        async for said in self._client.stream("/v3/watch", {"create_request": request}):
            if said.get("canceled"):
                # What it should begin with was compacted, or it may not be watched.
                raise Unavailable(f"the watch was ended: {said.get('cancel_reason', 'compacted')}")
            # What an edit left behind comes beside the head that names it, and is not asked for.
            for event in sorted(said.get("events", ()), key=self._is_of_head):
                await self._take(event)
            self._read_up_to = max(self._read_up_to, int(said["header"]["revision"]))

    def _is_of_head(self, event: Mapping[str, Any]) -> bool:
        return bool(event["kv"]["key"] == self._head_key)

    async def _take(self, event: Mapping[str, Any]) -> None:
        entry = etcd.entry_of(event["kv"])
        is_gone = event.get("type") == "DELETE"
        if entry.key == self._keys.head:
            head = Head() if is_gone else Head.read(entry.value, entry.revision)
            self._check(head)
            await self._catch_up(head)
            self._note(replace(self.seen, head=head))
        elif is_gone:
            self._note(self._without(self.seen, entry.key))
        elif entry.key.startswith(self._keys.revisions):
            self._hear_one(entry)
        else:
            self._note(self._after(self.seen, entry))

    async def _doubt(self) -> None:
        """Returns never; raises when the watch keeps silent of what was written, or of a lease
        that has ended."""
        while True:
            await asyncio.sleep(self._every_s)
            there, revision = await self._asked()
            heard_up_to = self._read_up_to
            if there != self.seen and revision > heard_up_to:
                await asyncio.sleep(self._every_s)
                if heard_up_to == self._read_up_to:
                    self._client.leave()
                    raise Unavailable("the watch is behind what was written")

    async def _catch_up(self, head: Head) -> None:
        """Lets everything up to `head` be heard."""
        while self._number is not None and self._number < head.number:
            key, end = self._keys.revision(self._number + 1), self._keys.revision(head.number + 1)
            (found,) = (
                await etcd.transact(self._client, [etcd.get(key, end, limit=str(AT_ONCE))])
            ).found
            for entry in found:
                self._hear_one(entry)
            if len(found) < AT_ONCE:
                return

    def _hear_one(self, entry: Entry) -> None:
        number = self._keys.number(entry.key)
        if number is not None and self._number is not None and number > self._number:
            self._number = number
            self._hear(unpacked(entry.value, number).whole(), entry.value)

    def _after(self, seen: Seen, entry: Entry) -> Seen:
        """`seen`, and what `entry` says; as it is where no gateway wrote that."""
        keys = self._keys
        if entry.key.startswith(keys.gateways):
            name = name_of(entry.key, keys.gateways)
            member = unpacked_member(name, entry.value)
            if name and entry.lease and member is not None:
                return replace(seen, members={**seen.members, name: member})
        elif entry.key.startswith(keys.rollouts):
            route, driver = name_of(entry.key, keys.rollouts), name_of(entry.value, b"")
            if route and driver:
                return replace(seen, drivers={**seen.drivers, route: driver})
        elif route := name_of(entry.key, keys.kept_rollouts):
            return replace(seen, rollouts={**seen.rollouts, route: entry.value})
        return seen

    def _without(self, seen: Seen, key: bytes) -> Seen:
        def left(prefix: bytes, known: Mapping[str, Any]) -> Mapping[str, Any]:
            return {name: each for name, each in known.items() if prefix + name.encode() != key}

        keys = self._keys
        return replace(
            seen,
            members=left(keys.gateways, seen.members),
            drivers=left(keys.rollouts, seen.drivers),
            rollouts=left(keys.kept_rollouts, seen.rollouts),
        )

    def _note(self, seen: Seen) -> None:
        if seen != self.seen:
            self.seen = seen
            self.changed.set()
            self.changed = asyncio.Event()
            self._look(seen)

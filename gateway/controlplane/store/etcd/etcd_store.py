"""A table that several gateways share: a `Store` in etcd.

An edit is one transaction that compares `head`: of two that begin at the same revision one is
refused (Conflict) and nothing of it is kept. What was sent and not answered is asked about until it
is known: it is stored once or not at all. Who else is there is `watch` and `membership`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gateway.controlplane.store.etcd import client as etcd
from gateway.controlplane.store.etcd.client import Access, Client
from gateway.controlplane.store.etcd.copy_file import Copy
from gateway.controlplane.store.etcd.layout import (
    DIGITS,
    MAX_BYTES,
    Head,
    Keys,
    packed,
    packed_file,
    sum_of,
    unpacked,
    unpacked_file,
)
from gateway.controlplane.store.etcd.membership import Lease, Membership
from gateway.controlplane.store.etcd.own_loop import OwnLoop
from gateway.controlplane.store.etcd.rollout_keys import RolloutKeys
from gateway.controlplane.store.etcd.watch import Seen, Watch
from gateway.controlplane.store.names import COPY
from gateway.controlplane.store.store import (
    PAGE_BYTES,
    Conflict,
    Kept,
    Member,
    Page,
    Revision,
    StateRefused,
    Stored,
    StoreError,
    Summary,
    Unavailable,
)
from gateway.core.table import Document
from gateway.processes.tasks import told as told_of

log = logging.getLogger(__name__)
PAGE_ENTRIES = 50
FORGOTTEN_AT_ONCE = 16
CAME_FIRST = 4  # revisions of others, with their documents, that are read for who lost to them
LEASE_S = 5.0
HAND_OVER_S = 15.0  # as long as others may have to wait for a machine that dies just then
LENGTHENS_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How a table is kept: below which prefix, how many revisions and bytes of them, and how long
    a lease lasts."""

    prefix: str
    keep: int = 10_000
    keep_bytes: int = 256 << 20
    lease_s: float = LEASE_S


class EtcdStore:
    """A `Store` in etcd. `copy` is the folder of the copy to start from while etcd is away; None:
    there is none, and then none is made."""

    def __init__(self, access: Access, kind: Kind, copy: Path | None = None) -> None:
        self._kind, self._keys = kind, Keys(kind.prefix)
        self._client = Client(access, within_s=kind.lease_s)
        self._copy = None if copy is None else Copy(copy / COPY)
        self._applied: Document | None = None
        self._applied_at = 0  # etcd's revision when that was written
        self._head: Head | None = None
        self._known: Head | None = None  # of the copy, where that is what was loaded
        self._sizes: dict[int, int] = {}
        self._watch: Watch | None = None
        self._membership: Membership | None = None
        self._look: Callable[[Seen], None] = lambda seen: None
        self._loop = OwnLoop("etcd", _note_failure)
        self._goes, self._is_closing = True, False
        self.is_copy = False
        """Whether what was loaded last is the copy."""
        self.copied_gateways = 1
        """How many gateways there were, as the copy says, where that is what was loaded last."""

    # -- as any store

    def load(self) -> Stored | None:
        """What is stored; the copy where etcd does not answer. Unavailable without one."""
        self.is_copy = False
        try:
            stored = self._loop.call(self._load())
        except Unavailable:
            copied = None if self._copy is None else self._copy.read()
            if copied is None:
                raise
            stored, self._known = copied.stored, copied.head
            self.copied_gateways = copied.gateways
            self.is_copy = True
        self._applied = None if stored is None else stored.applied
        return stored

    async def _load(self) -> Stored | None:
        keys = self._keys
        newest = {"sort_order": "DESCEND", "sort_target": "KEY", "limit": "1"}
        asked = [
            etcd.get(keys.head),
            etcd.get(keys.revisions, keys.revisions_end, **newest),
            etcd.get(keys.applied),
        ]
        heads, revisions, applied = (await etcd.transact(self._client, asked)).found
        if not heads and not revisions:
            # It may be the one endpoint that is of another cluster.
            await self._client.compared()
            heads, revisions, applied = (await etcd.transact(self._client, asked)).found
        if not heads and not revisions:
            self._head = Head()
            return None
        if not heads or not revisions:
            raise StateRefused(f"etcd: below {keys.all.decode()} its newest revision is missing")
        head = Head.read(heads[0].value, heads[0].revision)
        value = revisions[0].value
        if revisions[0].key != keys.revision(head.number) or sum_of(value) != head.checksum:
            raise StateRefused(f"etcd: revision {head.number} does not match its checksum")
        self._head = head
        self._sizes[head.number] = len(value)
        found = unpacked_file(applied[0].value) if applied else None
        self._applied_at = applied[0].revision if applied else 0
        self._keep_copy(head.number, value, found)
        return Stored(unpacked(value, head.number).whole(), found)

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        """Makes `revision` the newest, by one transaction that compares the head."""
        value = packed(revision)
        file = b"" if applied is None else packed_file(applied)
        is_apart = len(value) + len(file) > MAX_BYTES  # they do not fit into one request
        self._loop.call(self._commit(revision.number, value, b"" if is_apart else file))
        if is_apart:
            self._loop.call(self._remember(file))
        if applied is not None:
            self._applied = applied
        self._keep_copy(revision.number, value, self._applied)

    async def _commit(self, number: int, value: bytes, file: bytes) -> None:
        end = time.monotonic() + self._kind.lease_s
        head = self._newest_head()
        if head.number != number - 1:
            asked = await etcd.transact(self._client, self._first(number))
            head, newer = self._came_first(asked.found, number)
            if head.number not in (0, number - 1):  # the first may follow on another store's
                why = f"revision {number} cannot follow {head.number}, the newest one"
                raise Conflict(why, newer)
        after, forgotten = await self._after(head, number, value)
        keys = self._keys
        writes = [etcd.put(keys.head, after.packed()), etcd.put(keys.revision(number), value)]
        writes += [etcd.put(keys.applied, file)] if file else []
        writes += [forgotten] if forgotten else []
        while True:
            try:
                answer = await etcd.transact(
                    self._client,
                    writes,
                    when=[etcd.unchanged(keys.head, head.written)],
                    otherwise=self._first(number),
                    within_s=max(0.1, end - time.monotonic()),
                )
            except Unavailable as error:
                self._head = None
                raise Unavailable(f"{error}; whether the edit is stored shows once etcd is back")\
                    from None  # fmt: skip
            if answer.succeeded:
                self._note(after, answer.revision, number, value)
                self._applied_at = answer.revision if file else self._applied_at
                return
            heads, found = answer.found
            if found and found[0].value == value:
                # It was done at a first try, of which no answer came.
                written = Head.read(heads[0].value, heads[0].revision)
                self._note(written, written.written, number, value)
                self._applied_at = found[0].revision if file else self._applied_at
                return
            _, newer = self._came_first(answer.found, number)
            raise Conflict(f"revision {number} is another gateway's already", newer)

    async def _remember(self, file: bytes) -> None:
        """Remembers the file that the newest edit came from, which is stored. Before it, the file
        would count as applied where the edit is refused; left out, it is applied once more."""
        assert self._head is not None
        key, then = self._keys.applied, self._head.written
        try:
            # Another gateway may have applied another file since.
            answer = await etcd.transact(
                self._client, [etcd.put(key, file)], when=[etcd.not_since(key, then)]
            )
            self._applied_at = answer.revision if answer.succeeded else self._applied_at
        except StoreError as error:
            log.warning(f"{error}; the file of revision {self._head.number} is applied once more")

    def _note(self, head: Head, written: int, number: int, value: bytes) -> None:
        self._head = Head(head.number, head.checksum, head.oldest, head.size, written)
        self._sizes[number] = len(value)
        for old in [each for each in self._sizes if each < head.oldest]:
            del self._sizes[old]

    def _newest_head(self) -> Head:
        """The newest that is known, by own edits or by the watch."""
        seen = self._watch.seen.head if self._watch is not None else Head()
        return max(seen, self._head or Head(), key=lambda head: head.written)

    def _first(self, number: int) -> list[etcd.Json]:
        """Asks for the head, and for what is stored from revision `number` on."""
        keys = self._keys
        first, end = keys.revision(number), keys.revisions_end
        return [etcd.get(keys.head), etcd.get(first, end, limit=str(CAME_FIRST))]

    def _came_first(
        self, found: Sequence[Sequence[etcd.Entry]], number: int
    ) -> tuple[Head, Sequence[Revision]]:
        """The head, and the revisions that came before what should have been `number`: none where
        they are not all here."""
        heads, entries = found
        self._head = Head.read(heads[0].value, heads[0].revision) if heads else Head()
        numbers = range(number, self._head.number + 1)
        if [each.key for each in entries] != [self._keys.revision(each) for each in numbers]:
            return self._head, ()
        values = zip(entries, numbers, strict=True)
        return self._head, [unpacked(each.value, at).whole() for each, at in values]

    async def _after(self, head: Head, number: int, value: bytes) -> tuple[Head, etcd.Json]:
        """The head that comes after `head`, and the deletion of what is forgotten by it."""
        if not head.number:
            head = replace(head, oldest=number)
        size, oldest = head.size + len(value), head.oldest
        due = range(oldest, min(number, oldest + FORGOTTEN_AT_ONCE))
        limit = number - self._kind.keep
        if due and (oldest <= limit or size > self._kind.keep_bytes):
            await self._learn_sizes(due)
        for each in due:
            if each > limit and size <= self._kind.keep_bytes:
                break
            size -= self._sizes.get(each, 0)
            oldest = each + 1
        keys = self._keys
        gone = etcd.delete(keys.revision(head.oldest), keys.revision(oldest))
        return Head(number, sum_of(value), oldest, size), gone if oldest > head.oldest else None

    async def _learn_sizes(self, numbers: range) -> None:
        for number in numbers:
            if number in self._sizes:
                continue
            key = self._keys.revision(number)
            (found,) = (await etcd.transact(self._client, [etcd.get(key)])).found
            self._sizes[number] = len(found[0].value) if found else 0

    def applied_again(self, applied: Document, number: int) -> None:
        """Remembers a file that changes nothing of revision `number`, which is compared: it may
        well change what another gateway has made of that. Compared is also what was applied."""
        self._loop.call(self._applied_again(packed_file(applied), number))
        self._applied = applied

    async def _applied_again(self, file: bytes, number: int) -> None:
        keys, head = self._keys, self._newest_head()
        after = self._first(number + 1)
        if head.number != number:
            asked = await etcd.transact(self._client, after)
            head, newer = self._came_first(asked.found, number + 1)
            if head.number != number:
                raise Conflict(f"revision {number} is not the newest one", newer)
        answer = await etcd.transact(
            self._client,
            [etcd.put(keys.applied, file)],
            when=[
                etcd.unchanged(keys.head, head.written),
                # It may have been sent twice, and arrive once more when another one was applied.
                etcd.unchanged(keys.applied, self._applied_at),
            ],
            otherwise=[*after, etcd.get(keys.applied)],
        )
        if answer.succeeded:
            self._applied_at = answer.revision
            return
        *first, applied = answer.found
        head, newer = self._came_first(first, number + 1)
        if head.number != number or not applied or applied[0].value != file:
            raise Conflict(f"revision {number} is not the newest one any more", newer)

    def history(self, *, limit: int, before: int | None = None) -> Page:
        """The newest edits, read a few at a time: their documents come with them."""
        return self._loop.call(self._history(limit, before))

    async def _history(self, limit: int, before: int | None) -> Page:
        keys, edits, room = self._keys, list[Summary](), PAGE_BYTES
        end = keys.revision(before) if before and before < 10**DIGITS else b""
        while True:
            asked = {"sort_order": "DESCEND", "sort_target": "KEY"}
            count = min(PAGE_ENTRIES, limit - len(edits) + 1)
            last = end or keys.revisions_end
            (found,) = (
                await etcd.transact(
                    self._client, [etcd.get(keys.revisions, last, limit=str(count), **asked)]
                )
            ).found
            for entry in found:
                number = keys.number(entry.key)
                if number is None:
                    end = entry.key
                    continue
                if len(edits) == limit or room <= 0:
                    return Page(edits, True)
                kept = unpacked(entry.value, number)
                edits.append(
                    Summary(kept.number, kept.time, kept.who, kept.why, kept.source, kept.diff)
                )
                room -= len(str(kept.diff))
                end = entry.key
            if len(found) < count:
                return Page(edits)

    def get(self, number: int) -> Kept | None:
        """Revision `number`; None when it never was or is no longer kept."""
        if not 0 < number < 10**DIGITS:
            return None
        asked = etcd.get(self._keys.revision(number))
        (found,) = self._loop.call(etcd.transact(self._client, [asked])).found
        return unpacked(found[0].value, number) if found else None

    def follow(self, after: int, hear: Callable[[Revision], None]) -> None:
        """Has `hear` called from the loop of this store: by the watch, also with own edits."""
        self._loop.call(self._followed(after, hear))

    async def _followed(self, after: int, hear: Callable[[Revision], None]) -> None:
        def heard(revision: Revision, value: bytes) -> None:
            self._keep_copy(revision.number, value, self._applied)
            hear(revision)

        await self._watching().follow(after, heard)

    def members(self) -> Sequence[Member]:
        """The gateways that hold their lease, as they are now."""
        return self._loop.call(self._members())

    async def _members(self) -> Sequence[Member]:
        watch = self._watching()
        while watch.seen.away:
            await watch.changed.wait()
        return [watch.seen.members[name] for name in sorted(watch.seen.members)]

    def close(self) -> None:
        """Says that this gateway goes, unless it stays, and lets go of etcd."""
        self._is_closing = True  # the copy says what there was
        self._loop.close(self._farewell())
        if self._copy is not None:
            self._copy.close()

    async def _farewell(self) -> None:
        if self._membership is not None and self._goes:
            await self._membership.leave()
        await self._client.close()

    # -- as a gateway among others

    def join(
        self,
        *,
        look: Callable[[Seen], None],
        told: Callable[[Lease], None],
        alive: Callable[[], Awaitable[None]],
    ) -> None:
        """Begins to be one of the gateways, once something is announced. `look` gets what is seen
        of the others, `told` each renewal and loss of the lease, both on the loop of this store;
        `alive` is awaited there before each renewal."""
        self._look = look

        async def joined() -> None:
            watch = self._watching()
            self._membership = Membership(
                self._client, self._keys, watch, self._kind.lease_s, told=told, alive=alive
            )
            look(watch.seen)

        self._loop.call(joined())
        assert self._membership is not None
        self._loop.keep("the lease", self._membership.run)

    def announce(self, own: Member | None, within_s: float = 0.0) -> None:
        """What is true of this gateway from now on; None: nothing that others could count on. It is
        told within so many seconds, at once where they are 0."""
        assert self._membership is not None
        self._loop.soon(partial(self._membership.announce, own, within_s))

    def stay(self, within_s: float = 0.0) -> None:
        """Has `close` say nothing to the others: workers decide on, and whoever follows this
        control process takes the lease again. Until then, or until it ends, edits wait. Where that
        is to be `within_s` seconds, it lasts so long at least, but no longer than HAND_OVER_S, if
        that can be had."""
        self._goes = False
        if within_s and self._membership is not None and self._membership.lease:
            with suppress(TimeoutError):
                self._loop.call(self._lengthen(self._membership, min(within_s, HAND_OVER_S)))

    async def _lengthen(self, membership: Membership, lasts_s: float) -> None:
        async with asyncio.timeout(LENGTHENS_WITHIN_S):
            await membership.lengthen(lasts_s)

    def rollouts(self, node: str) -> RolloutKeys:
        """What keeps rollouts here, for the gateway `node`."""

        def lease() -> int:
            return self._membership.lease if self._membership is not None else 0

        return RolloutKeys(self._loop, self._client, self._keys, node, lease)

    def _keep_copy(self, number: int, value: bytes, applied: Document | None) -> None:
        """Keeps a copy of the newest revision to start from while etcd is away."""
        if self._copy is not None:
            self._copy.keep(number, value, applied)

    def _watching(self) -> Watch:
        if self._watch is None:
            every_s = self._kind.lease_s / 3
            self._watch = Watch(
                self._client, self._keys, every_s, look=self._note_seen, known=self._known
            )
            self._loop.keep("the watch", self._watch.run)
        return self._watch

    def _note_seen(self, seen: Seen) -> None:
        if seen.is_past and self._membership is not None:
            self._membership.look()
        if self._copy is not None and not seen.away and not self._is_closing:
            live = [each for each in seen.members.values() if each.workers]
            self._copy.note(sorted(seen.drivers), max(1, len(live)))
        self._look(seen)


def _note_failure(name: str, error: Exception) -> None:
    """Logs the end of a task that is begun again."""
    log.error(f"etcd: {name} ended: {told_of(error)}; beginning again")

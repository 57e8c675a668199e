"""Is this gateway one of those that an edit waits for?

It is while it holds a lease, under which it writes the revision that all its workers decide by. It
counts the lease by its own monotonic clock, from the sending of the last renewal that was
confirmed: so it knows that it is lost before anybody stops waiting for it. It never announces
itself with an old table: the first word under a lease compares the head.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.controlplane.store.etcd import client as etcd
from gateway.controlplane.store.etcd.client import Client, Json
from gateway.controlplane.store.etcd.layout import Keys, packed_member, unpacked_member
from gateway.controlplane.store.etcd.watch import Watch
from gateway.controlplane.store.store import Member, StoreError, Unavailable
from gateway.processes.tasks import first_of

MARGIN = 0.95
"""The part of a lease by which the own clock counts: no clock is exact."""
RENEWALS = 5
"""So often a lease is renewed while it lasts: a control process that was killed has the rest of it,
three quarters at least, to be there again before workers are lost to the others."""
PAUSE_S = 0.2
ANOTHER = "another process writes what this gateway says of itself"
BEHIND = "it has not taken over the newest revision yet"


@dataclass(frozen=True, slots=True)
class Lease:
    """Until when (monotonic seconds) it is held for certain, and, where it is not, why."""

    until: float = 0.0
    why: str = "it was not taken yet"


class Membership:
    """The lease of this gateway. `told` hears of each renewal and loss; `alive` returns while the
    control process does its work, or nothing is renewed any more."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        watch: Watch,
        lease_s: float,
        *,
        told: Callable[[Lease], None],
        alive: Callable[[], Awaitable[None]],
    ) -> None:
        self._client, self._keys, self._watch = client, keys, watch
        self._asked_s = max(2, math.ceil(lease_s))
        self._told, self._alive = told, alive
        self._own: Member | None = None
        self._written: Member | None = None
        self._news = asyncio.Event()
        self._due = math.inf  # when what is announced has to be written
        self._at = 0  # etcd's revision when its word was written
        self._until = self._ttl_s = 0.0
        self._longer_s = 0.0  # how long the lease is to last at least
        self._lengthened = asyncio.Event()
        self._heard_at = 0.0  # when it was last known what others write
        self.lease = 0
        """The number of the lease that is held; 0: none."""

    def announce(self, own: Member | None, within_s: float = 0.0) -> None:
        """What is true of this gateway now; None: it decides by no table that others know. It is
        written within so many seconds."""
        self._due = min(self._due, time.monotonic() + within_s)
        self._own = own
        self._news.set()

    def look(self) -> None:
        """Something is to be seen that may cost the lease."""
        self._news.set()

    async def lengthen(self, lasts_s: float) -> None:
        """Returns when what is announced is said under a lease that lasts so long; never while none
        is held."""
        self._longer_s = lasts_s
        self._news.set()
        await self._lengthened.wait()

    async def run(self) -> None:
        """Takes the lease and keeps it, again and again, until cancelled."""
        while True:
            try:
                await self._current()
                await self._hold()
            except StoreError as error:
                self.lease, self._written = 0, None
                self._lose(str(error))
            await asyncio.sleep(PAUSE_S)

    async def leave(self) -> None:
        """Says that this gateway goes, so that nobody waits for it or misses it."""
        lease, self.lease = self.lease, 0
        if lease and self._written is not None:
            going = replace(self._written, workers=0)
            with suppress(StoreError):
                await self._say(going, lease, within_s=1.0)
            await etcd.revoke(self._client, lease, within_s=1.0)

    async def _current(self) -> None:
        """Returns when what is announced is the newest there is."""
        while True:
            changed = self._watch.changed
            self._news.clear()
            own, seen = self._own, self._watch.seen
            if own is not None and not seen.away and own.applied == seen.head.number:
                holder = seen.members.get(own.name)
                if holder is None or holder.id == own.id:
                    return
                self._lose(
                    f"another gateway is called {own.name!r} too (admin API {holder.admin}); set"
                    " `node` in one of them"
                )
            elif own is not None and not seen.away and own.applied > seen.head.number:
                self._lose(
                    f"etcd has revision {seen.head.number} only and this gateway {own.applied}: its"
                    " data was lost or restored; start this gateway again to go on with that"
                )
            else:
                self._lose(seen.away or BEHIND)
            await first_of(self._news.wait(), changed.wait())

    async def _hold(self) -> None:
        sent = time.monotonic()
        self.lease, self._ttl_s = await etcd.grant(
            self._client, self._asked_s, within_s=self._asked_s
        )
        self._until = sent + MARGIN * self._ttl_s
        if not await self._join():
            lease, self.lease = self.lease, 0
            await etcd.revoke(self._client, lease, within_s=0.5)
            return
        self._told(Lease(self._until, ""))
        self._heard_at = time.monotonic()
        # Lost, it is left to end by itself: workers may count on it until then.
        await self._keep(sent)

    async def _join(self) -> bool:
        """Writes the first word under the lease; whether the table is still the newest."""
        own, head = self._own, self._watch.seen.head
        if own is None or own.applied != head.number:
            return False
        newest = etcd.unchanged(self._keys.head, head.written)
        is_said = await self._say(own, self.lease, first=newest, within_s=self._left())
        self._written = own
        return is_said and time.monotonic() < self._until

    async def _keep(self, sent: float) -> None:
        """Renews the lease and writes what is announced; StoreError when it is lost."""
        while True:
            self._news.clear()
            if self._own is None:
                raise Unavailable("this gateway cannot take over the newest revision")
            if self._watch.seen.is_past:
                # The lease may go on in what was restored: nobody shall take the number that is
                # written there for one of the numbers that come now.
                await self._write(replace(self._own, applied=0))
                raise Unavailable(self._watch.seen.away)
            if not self._watch.seen.away:
                self._heard_at = time.monotonic()
            elif time.monotonic() >= self._heard_at + self._ttl_s:
                # etcd renews leases also of who may not read what is written, or cannot.
                raise Unavailable(self._watch.seen.away)
            if self._longer_s:
                sent = await self._lengthen(self._own)
            if time.monotonic() >= self._due:
                await self._write(self._own)
                continue
            with suppress(TimeoutError):
                until = min(self._due, sent + self._ttl_s / RENEWALS)
                async with asyncio.timeout(until - time.monotonic()):
                    await self._news.wait()
            if time.monotonic() >= sent + self._ttl_s / RENEWALS:
                sent = await self._renew()

    async def _write(self, own: Member) -> None:
        self._due = math.inf
        if own == self._written:
            return
        if not await self._say(own, self.lease, within_s=self._left()):
            raise Unavailable(ANOTHER)
        self._written = own

    async def _say(
        self, own: Member, lease: int, *, first: Json | None = None, within_s: float
    ) -> bool:
        """Whether etcd has `own` under `lease` now; not where its word is another's. The first word
        under a lease also compares `first`, and follows that of a lease before.

        A word is written only on what it was compared with: it may have been sent twice, and arrive
        once more when newer ones have been written, or under a lease that ends sooner.
        """
        key, value = self._keys.gateway(own.name), packed_member(own)
        while True:
            answer = await etcd.transact(
                self._client,
                [etcd.put(key, value, lease)],
                when=[etcd.unchanged(key, self._at), *([first] if first else [])],
                otherwise=[etcd.get(key)],
                within_s=within_s,
            )
            if answer.succeeded:
                self._at = answer.revision
                return True
            (found,) = answer.found
            before, self._at = self._at, found[0].revision if found else 0
            if found and found[0].lease == lease:
                if found[0].value == value:
                    return True  # at a first try, of which no answer came
            elif found:
                member = unpacked_member(own.name, found[0].value)
                if not first or (member is not None and member.id != own.id):
                    return False
            if self._at == before:
                return False  # it was `first` that does not hold

    async def _lengthen(self, own: Member) -> float:
        """When the longer lease was asked for."""
        asked_s, self._longer_s = max(self._asked_s, math.ceil(self._longer_s)), 0.0
        sent = time.monotonic()
        lease, ttl_s = await etcd.grant(self._client, asked_s, within_s=self._left())
        if not await self._say(own, lease, within_s=self._left()):
            raise Unavailable(ANOTHER)
        self._written, self._due = own, math.inf
        self.lease, self._ttl_s = lease, ttl_s
        self._until = sent + MARGIN * ttl_s
        self._told(Lease(self._until, ""))
        self._lengthened.set()
        return sent

    async def _renew(self) -> float:
        """When the renewal was sent that has been confirmed now."""
        try:
            async with asyncio.timeout(self._left()):
                await self._alive()
        except TimeoutError:
            raise Unavailable("the control process stood still for longer than its lease") from None
        sent = time.monotonic()
        ttl_s = await etcd.renew(self._client, self.lease, within_s=self._left())
        if ttl_s <= 0:
            raise Unavailable("the lease has ended: etcd did not hear of this gateway in time")
        self._ttl_s = ttl_s
        self._until = sent + MARGIN * ttl_s
        self._told(Lease(self._until, ""))
        return sent

    def _left(self) -> float:
        return max(0.05, self._until - time.monotonic())

    def _lose(self, why: str) -> None:
        self._until = 0.0
        self._told(Lease(0.0, why))

"""May one more request have what is left in a bucket?

By the generic cell rate algorithm (`core.rate_limit`), over the lanes of all workers, of which this
one knows what it wrote itself. Where records lie, and whose a lane is, is `buckets`.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from gateway.core.entries import Limits
from gateway.core.rate_limit import Terms
from gateway.dataplane.buckets import COUNT, LOCKS, Buckets, Busy, Own

_NONE: Final = Own(-1)


class OverLimit(Exception):
    """The bucket is empty for `wait_s` seconds, or, where that is 0, too many are in flight."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Bucket:
    """The bucket of a `kind` of thing called `name`, as this worker sees it; it goes on under
    changed `limits`. `left` and `full_at` are what the last request left."""

    __slots__ = (
        "_all", "_gateways", "_key", "_own", "_word", "full_at", "kind", "left", "limits", "place",
        "terms",
    )  # fmt: skip

    def __init__(self, buckets: Buckets, kind: str, name: str, limits: Limits) -> None:
        # First, and so side by side in memory, what each decision reads (see `door.Admission`).
        self._all = buckets
        self._own = _NONE
        self._gateways = buckets.gateways
        self.terms: Terms = buckets.terms(kind, limits)
        self.left = self.terms.burst
        self.full_at = 0.0
        self.place = -1
        self._key = key = blake2b(f"{kind}\0{name}".encode(), digest_size=12).digest()
        self._word = int.from_bytes(key[:8], "big") | 1
        self.kind = kind
        self.limits = limits

    def _take_part(self) -> None:
        """Goes by this gateway's part of the limits from now on."""
        self._gateways = self._all.gateways
        self.terms = self._all.terms(self.kind, self.limits)

    def enter(self, now: float) -> bytes:
        """Admits one request, which is in flight until `leave`; the header lines that tell its
        client what is left. OverLimit; Busy."""
        buckets, own = self._all, self._own
        if self._gateways != buckets.gateways:
            self._take_part()
        if (
            own.known is buckets.known
            and own.is_alone
            and buckets.epochs == buckets.alone
            and not self.terms.is_locked
        ):
            return self._take(own, now)
        place = self.place
        if place < 0 or buckets.directory[place] != self._word:
            place = self.place = buckets.find(self._key, now)
        if not self.terms.is_locked:
            return self._decide(place, now)
        buckets.lock(LOCKS + place)
        try:
            return self._decide(place, now)
        finally:
            buckets.unlock(LOCKS + place)

    @property
    def counts_flights(self) -> bool:
        """Whether what is in flight is counted here."""
        return self.terms.most is not None

    def is_of(self, other: "Bucket") -> bool:
        """Whether this and `other` are of one thing, under whatever limits."""
        return self._key == other._key

    def adopt(self, now: float) -> None:
        """Counts a request that is under way already, whether there is room for it or not; it is in
        flight until `leave`. Takes nothing of the rate. Busy."""
        buckets, place = self._all, self.place
        if place < 0 or buckets.directory[place] != self._word:
            place = self.place = buckets.find(self._key, now)
        self._own = own = buckets.own(place, now)
        own.flying += 1
        buckets.counts[own.at + buckets.to_counts] = buckets.ours + own.flying

    def _decide(self, place: int, now: float) -> bytes:
        buckets, most = self._all, self.terms.most
        own = buckets.own(place, now)
        if most is not None and own.beside_flying and own.flying + own.beside_flying >= most:
            buckets.look(now)  # who has ended has nothing in flight
            own.known = None
            own = buckets.own(place, now)
        self._own = own
        return self._take(own, now)

    def _take(self, own: Own, now: float) -> bytes:
        """Decides by what `own` says of the record, and writes it there."""
        buckets, terms = self._all, self.terms
        at, cost_s = own.at, terms.cost_s
        full_at = taken = left = 0.0
        is_full = False
        if terms.has_rate:
            taken = own.others + own.seconds
            full_at = own.since + taken
            is_full = full_at < now
            if is_full:
                full_at = now
            left = terms.burst - (full_at - now) / cost_s - 1.0
            if left < -1e-6:
                self._refuse(left, full_at)
        most = terms.most
        if most is not None:
            if own.flying + own.beside_flying >= most:
                raise OverLimit(0.0)
            own.flying += 1
            buckets.counts[at + buckets.to_counts] = buckets.ours + own.flying
        if terms.has_rate:
            if is_full:
                own.since = buckets.seconds[at + buckets.lanes] = now - taken
            own.seconds = buckets.seconds[at] = own.seconds + cost_s
        self.left = rest = int(left + 1e-6)
        self.full_at = full_at = full_at + cost_s
        return terms.lines(rest, full_at - now)

    def _refuse(self, left: float, full_at: float) -> None:
        self.left, self.full_at = 0, full_at
        raise OverLimit(max(1e-3, -left * self.terms.cost_s))

    def _add(self, place: int, more: int) -> None:
        buckets = self._all
        at = place * buckets.stride + buckets.to_counts + buckets.lane
        word: int = buckets.counts[at]
        count = more + (word & COUNT if word >> 20 == buckets.epoch else 0)
        buckets.counts[at] = buckets.ours + count if count > 0 else buckets.ours

    def leave(self) -> None:
        """One request that was admitted here is over."""
        if self.terms.most is None:
            return
        buckets, own = self._all, self._own
        if own.known is not buckets.known:
            self._add(self.place, -1)
        elif own.flying > 0:
            own.flying -= 1
            buckets.counts[own.at + buckets.to_counts] = buckets.ours + own.flying

    def undo(self) -> None:
        """As if the request that was admitted just now had not come."""
        self.leave()
        if self.terms.has_rate:
            buckets, own = self._all, self._own
            at = self.place * buckets.stride + buckets.lane
            buckets.seconds[at] -= self.terms.cost_s
            if own.known is buckets.known:
                own.seconds = buckets.seconds[at]

    def forgive(self, clock: Callable[[], float]) -> float:
        """Takes nothing of what is over for it was taken under other limits: what was used up
        stays used up, and no more. How long the next request has to wait then; 0 if another
        worker decides at this moment, and nothing was done.

        The record is read before the `clock`, under the lock: so it holds no more than the burst
        beyond that moment if all was taken under these limits, and nobody forgives it twice."""
        buckets, place, terms = self._all, self.place, self.terms
        try:
            buckets.lock(LOCKS + place)
        except Busy:
            return 0.0
        try:
            full_at = buckets.full_at(place)
            now = clock()
            over_s = terms.over_s(full_at - now)
            if over_s and buckets.directory[place] == self._word:
                own = buckets.own(place, now)
                own.seconds = buckets.seconds[own.at] = own.seconds - over_s
        finally:
            buckets.unlock(LOCKS + place)
        self.full_at = full_at = max(now, full_at - over_s)
        return max(1e-3, full_at - now - (terms.burst - 1) * terms.cost_s)

    def look(self, now: float) -> None:
        """Has `left` and `full_at` say what there is now. Takes nothing."""
        buckets, place, terms = self._all, self.place, self.terms
        if terms.has_rate and place >= 0 and buckets.directory[place] == self._word:
            self.full_at = max(now, buckets.full_at(place))
            left = terms.burst - (self.full_at - now) / terms.cost_s
            self.left = max(0, int(left + 1e-6))

    def lines(self, now: float) -> bytes:
        """The header lines that tell a client what the last request left."""
        return self.terms.lines(self.left, self.full_at - now)

    def wait_s(self, now: float) -> float:
        """How long a request that comes now would have to wait; 0 if it need not, or if that is
        not known here. Takes nothing."""
        buckets, place, terms = self._all, self.place, self.terms
        if not terms.has_rate or place < 0 or buckets.directory[place] != self._word:
            return 0.0
        full_at = max(now, buckets.full_at(place))
        return max(0.0, full_at - now - (terms.burst - 1) * terms.cost_s)

"""Which requests are copied to a mirror (shadow traffic), and what becomes of the answers?

A copy is taken of requests whose body is whole and small enough to be kept, sent to the
mirror's backend if it has room at once, and its answer is read and forgotten, or compared
(`pairing`). It never delays a client: it leaves when the worker has no client's request to send
on (`idle_queue`), what does not fit is dropped, and so is a copy under way whose place a client's
own request needs. Where answers are compared, what is dropped is counted: each request that chance
picked has one verdict in the end.
"""

from typing import Final

from gateway.core.headers import length_line
from gateway.core.response_heads import ResponseHead
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.intake import Intake
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.pairing import DROPPED, Half, Pair
from gateway.dataplane.upstream import Receiver, Upstream

_WHOLE: Final = 1 << 64


def mirror(exchange: Intake, route: LiveRoute, chosen: LiveBackend) -> Pair | None:
    """Sends a copy of the request, by chance, if there is room for it now; the pair that its
    answer makes with that of the `chosen` backend, where they are to be compared."""
    plane, backend, wanted = exchange.plane, route.mirror, route.route.mirror
    if backend is None or wanted is None or exchange.upgrades:
        return None
    compares = wanted.compare
    if compares is not None and backend is chosen:
        return None  # what would answer is what answers
    if wanted.percent < 100 and plane.random() * 100 >= wanted.percent * _WHOLE:
        return None
    body = exchange.kept() if exchange.done else None
    instance = None if body is None else _taker(exchange, backend)
    if body is None or instance is None:
        if compares is not None:
            plane.outbox.count(route.route.name, backend.name, DROPPED)
        return None
    whole = b"".join(body)
    if compares is None:
        Copy(exchange, backend, instance, whole, None).begin()
        return None
    pair = _pair(exchange, route, backend, chosen)
    Copy(exchange, backend, instance, whole, pair.copy).begin()
    if compares.noise:
        pair.ask_again(whole)
    return pair


def ask_again(exchange: Intake, pair: Pair, backend: LiveBackend | None) -> None:
    """Asks `backend`, of which the client has its answer, the same once more, if there is room that
    nobody waits for. No sooner: the only place of an instance may be the client's until then."""
    half, plane = pair.again, exchange.plane
    if half is None or backend is None:
        return
    has_place = len(backend.copies) < plane.options.mirror_in_flight
    if pair.wants_again and has_place and not backend.waiting:
        instance = backend.other((), plane.now())
        if instance is not None and instance.takes():
            Copy(exchange, backend, instance, pair.question, half).begin()
            return
    half.end(False)


def _taker(exchange: Intake, backend: LiveBackend) -> LiveInstance | None:
    """An instance of the mirror that has room for one more copy, whose place is taken; None: there
    is none. Each backend has places of its own: one that hangs takes none from other mirrors."""
    if len(backend.copies) >= exchange.plane.options.mirror_in_flight:
        return None
    instance = backend.other((), exchange.ready_at)
    if instance is None and backend.asleep and exchange.wakes:
        backend.start.ask(exchange.ready_at)
    return instance if instance is not None and instance.takes() else None


def _pair(exchange: Intake, route: LiveRoute, backend: LiveBackend, chosen: LiveBackend) -> Pair:
    plane, name = exchange.plane, route.route.name
    key = -1 if route.route.sticky is None else route.key_hash(exchange.head)
    request = exchange.request_id.decode("latin-1")
    return Pair(plane.outbox, name, backend.name, chosen.name, key, request, plane.wall())


class Copy(Timed, Receiver):
    """One mirrored request: an upstream receiver whose answer no client sees, and that `half`
    gathers where it is compared. Its deadline is for the
    whole answer: a stream without an end would keep its place from all later copies."""

    __slots__ = ("_backend", "_data", "_half", "_instance", "_is_over", "_upstream", "method")

    def __init__(
        self,
        exchange: Intake,
        backend: LiveBackend,
        instance: LiveInstance,
        body: bytes,
        half: Half | None,
    ) -> None:
        super().__init__()
        self._half = half
        self.method = exchange.head.method
        self._backend = backend
        self._instance = instance
        self._upstream: Upstream | None = None
        self._is_over = False
        length = exchange.received if exchange.head.length is not None else None
        self._data = exchange.message(
            instance, backend.timeout_line, length_line(length) + b"X-Headgate-Mirror: 1\r\n", body
        )

    def begin(self) -> None:
        """Takes its place, and sends the copy when there is time; nobody waits for its answer."""
        shared, instance = self._instance.shared, self._instance
        now = shared.now()
        instance.load.sent(now)
        self._backend.copies.add(self)
        shared.wheel.set(self, now + instance.pool.timeouts.response_s)
        shared.idle_queue.add(self._go)

    def _go(self) -> None:
        if self._is_over:
            return
        instance = self._instance
        upstream = instance.pool.take(instance.shared.now())
        if upstream is None:
            instance.pool.connect(self._send, lambda _signal, _why: self._end(), self.give_up)
        else:
            self._send(upstream)

    def expired(self, now: float) -> None:
        """Ends the copy, as its time is over, whatever the answer does."""
        self._abort()

    def give_up(self) -> None:
        """Ends it, by no fault of the mirror's: somebody needs its place, or this worker failed."""
        if self._half is not None:
            self._half.drop()
        self._abort()

    def _abort(self) -> None:
        """Ends it unanswered: the instance learns it by the end of the connection."""
        if self._upstream is not None:
            self._upstream.abort()
        self._end()

    def _send(self, upstream: Upstream) -> None:
        shared, pool = self._instance.shared, self._instance.pool
        if self._is_over:
            pool.put(upstream, shared.now())
            return
        self._upstream = upstream
        upstream.send(self, self._data, True, False)
        shared.wheel.set(upstream, shared.now() + pool.timeouts.response_s)

    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None:
        if self._half is not None:
            self._half.begin(head, payload)
        if done:
            self._end(True)

    def received(self, payload: bytes, done: bool, now: float) -> None:
        if self._half is not None:
            self._half.add(payload)
        if done:
            self._end(True)

    def broke(self, reason: str, detail: str) -> None:
        self._end()

    def _end(self, is_whole: bool = False) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._half is not None:
            self._half.end(is_whole)
        shared = self._instance.shared
        shared.wheel.drop(self)
        self._backend.copies.discard(self)
        self._instance.freed()

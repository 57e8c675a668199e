"""Which requests are copied to a mirror, and what becomes of the answers?

A copy is taken of requests whose body is whole and small enough to be kept, sent to the
mirror's backend if it has room at once, and its answer is read and forgotten. It never
delays a client: what does not fit is dropped, and so is a copy under way whose place a client's
own request needs.
"""

from typing import Final

from gateway.core.headers import length_line
from gateway.core.heads import ResponseHead
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.intake import Intake
from gateway.dataplane.routing import LiveRoute
from gateway.dataplane.upstream import Receiver, Upstream

_WHOLE: Final = 1 << 64


def mirror(exchange: Intake, route: LiveRoute) -> None:
    """Sends a copy of the request, by chance, if there is room for it now."""
    plane, backend, wanted = exchange.plane, route.mirror, route.route.mirror
    if backend is None or wanted is None or not exchange.done or exchange.upgrades:
        return
    if plane.mirrored >= plane.options.mirror_in_flight:
        return
    if exchange.received > plane.options.replay:
        return
    if plane.random() * 100 >= wanted.percent * _WHOLE:
        return
    instance = backend.other((), exchange.ready_at)
    if instance is not None and instance.takes():
        Copy(exchange, backend, instance).begin()


class Copy(Timed, Receiver):
    """One mirrored request: an upstream receiver that nobody listens to. Its deadline is for the
    whole answer: a stream without an end would keep its place from all later copies."""

    __slots__ = ("_backend", "_data", "_instance", "_is_over", "_upstream", "method")

    def __init__(self, exchange: Intake, backend: LiveBackend, instance: LiveInstance) -> None:
        super().__init__()
        self.method = exchange.head.method
        self._backend = backend
        self._instance = instance
        self._upstream: Upstream | None = None
        self._is_over = False
        length = exchange.received if exchange.head.length is not None else None
        self._data = exchange.message(
            instance,
            backend.timeout_line,
            length_line(length) + b"X-Headgate-Mirror: 1\r\n",
            b"".join(exchange.pending()),
        )

    def begin(self) -> None:
        """Sends the copy; nobody waits for its answer."""
        shared, instance = self._instance.shared, self._instance
        now = shared.now()
        shared.mirrored += 1
        instance.load.sent(now)
        self._backend.copies.add(self)
        shared.wheel.set(self, now + instance.pool.timeouts.response_s)
        upstream = instance.pool.take(now)
        if upstream is None:
            instance.pool.connect(self._send, lambda _signal, _why: self._end(), self.give_up)
        else:
            self._send(upstream)

    def expired(self, now: float) -> None:
        """Its time is over, whatever the answer does."""
        self.give_up()

    def give_up(self) -> None:
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
        if done:
            self._end()

    def received(self, payload: bytes, done: bool, now: float) -> None:
        if done:
            self._end()

    def broke(self, reason: str, detail: str) -> None:
        self._end()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        shared = self._instance.shared
        shared.mirrored -= 1
        shared.wheel.drop(self)
        self._backend.copies.discard(self)
        self._instance.freed()

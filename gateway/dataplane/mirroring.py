"""Which requests are copied to a mirror, and what becomes of the answers?

A copy is taken of requests whose body is whole and small enough to be kept, sent to the
mirror's backend if it has room at once, and its answer is read and forgotten. It never
delays a client: what does not fit is dropped, and so is a copy under way whose place a client's
own request needs.
"""

from typing import TYPE_CHECKING

from gateway.core.headers import length_line
from gateway.core.heads import ResponseHead
from gateway.dataplane.current import LiveRoute
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.upstream import Upstream

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange

_WHOLE = 1 << 64


def mirror(exchange: "Exchange", route: LiveRoute) -> None:
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
        Copy(exchange, instance).begin()


class Copy:
    """One mirrored request: an upstream receiver that nobody listens to."""

    __slots__ = ("_data", "_instance", "_is_over", "_upstream", "method")

    def __init__(self, exchange: "Exchange", instance: LiveInstance) -> None:
        self.method = exchange.head.method
        self._instance = instance
        self._upstream: Upstream | None = None
        self._is_over = False
        length = exchange.received if exchange.head.length is not None else None
        self._data = exchange.message(
            instance,
            instance.backend.timeout_line,
            length_line(length) + b"X-Headgate-Mirror: 1\r\n",
            b"".join(exchange.pending()),
        )

    def begin(self) -> None:
        """Sends the copy; nobody waits for its answer."""
        instance = self._instance
        now = instance.plane.now()
        instance.plane.mirrored += 1
        instance.load.sent(now)
        instance.backend.copies.add(self)
        upstream = instance.take(now)
        if upstream is None:
            instance.connect(self._send, lambda detail: self._end())
        else:
            self._send(upstream)

    def drop(self) -> None:
        """Ends it unanswered: the instance learns it by the end of the connection."""
        if self._upstream is not None:
            self._upstream.abort()
        self._end()

    def _send(self, upstream: Upstream) -> None:
        plane = self._instance.plane
        if self._is_over:
            self._instance.put(upstream, plane.now())
            return
        self._upstream = upstream
        upstream.send(self, self._data, True, False)
        response_s = self._instance.backend.config.timeouts.response_s
        plane.wheel.set(upstream, plane.now() + response_s)

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

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        self._end()

    def tunnelled(self, data: bytes) -> None:
        """Never: a copy asks for no upgrade."""

    def sending_paused(self) -> None:
        """The whole copy was handed over already."""

    def sending_resumed(self) -> None:
        """See sending_paused."""

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        instance = self._instance
        instance.plane.mirrored -= 1
        instance.backend.copies.discard(self)
        instance.freed()

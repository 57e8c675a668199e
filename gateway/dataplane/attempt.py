"""How does one try of one request at one instance go?

An Attempt holds the in-flight guard from the moment the instance is chosen until the last
byte of its answer, whatever happens in between, and names what went wrong by blame. It
learns from the answer (speed, load report, health signals) and passes it on; whether another
attempt follows is the exchange's to say.
"""

from operator import itemgetter
from typing import TYPE_CHECKING

import orjson

from gateway.core.framing import LAST_CHUNK, chunk
from gateway.core.headers import length_line, timeout_line
from gateway.core.heads import CHUNKED, ResponseHead
from gateway.core.health import CLEAR
from gateway.core.lines import LOAD, RETRY_AFTER
from gateway.dataplane.deadlines import NEVER
from gateway.dataplane.instance import REPORT, LiveInstance
from gateway.dataplane.upstream import Upstream

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange

_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_reported = itemgetter(*REPORT)


class Attempt:
    """One try. Ends exactly once: by `_end`."""

    __slots__ = (
        "_chunked", "_is_over", "_occupied", "exchange", "failed", "instance", "is_well",
        "method", "sent_at", "teaches", "upstream",
    )  # fmt: skip

    def __init__(self, exchange: "Exchange", instance: LiveInstance, now: float) -> None:
        self.exchange = exchange
        self.instance = instance
        self.method = exchange.head.method
        self.upstream: Upstream | None = None
        self.sent_at = 0.0
        self.failed = False
        self.teaches = False
        self.is_well = False
        self._is_over = False
        self._chunked = False
        self._occupied = instance.load.sent(now)

    def begin(self, now: float) -> None:
        """Sends the request on a pooled connection, or opens one first."""
        upstream = self.instance.take(now)
        if upstream is None:
            self.instance.connect(self._connected, self._connect_failed)
        else:
            self._send(upstream, self.instance.plane.now())

    def cancel(self) -> None:
        """The answer is wanted no more: the instance learns it by the end of the connection."""
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None
        self._end(self.instance.plane.now(), learn=False)

    def write(self, payload: bytes, done: bool) -> None:
        """Sends on what came of the request body."""
        upstream = self.upstream
        if upstream is None:
            return
        if self._chunked:
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if done else b"")
        if payload:
            upstream.transport.write(payload)
        if done:
            upstream.request_done = True
            plane = self.instance.plane
            response_s = self.instance.backend.config.timeouts.response_s
            plane.wheel.set(upstream, plane.now() + response_s)

    def _connected(self, upstream: Upstream) -> None:
        if self._is_over:
            self.instance.put(upstream, self.instance.plane.now())
        else:
            self._send(upstream, self.instance.plane.now())

    def _connect_failed(self, detail: str) -> None:
        if not self._is_over:
            self.failed = True
            now = self.instance.plane.now()
            self._end(now, learn=False)
            self.instance.note("connect_failure", now)
            self.exchange.attempt_failed(self, "connect_failure", detail)

    def _send(self, upstream: Upstream, now: float) -> None:
        exchange, instance = self.exchange, self.instance
        head, plane = exchange.head, instance.plane
        self.upstream = upstream
        self.sent_at = now
        timeouts = instance.backend.config.timeouts
        done = exchange.done
        length = head.length
        if done and length is not None:
            length = exchange.received
        self._chunked = length == CHUNKED
        timeout = instance.backend.timeout_line
        if exchange.patience_until != NEVER:
            timeout = timeout_line(min(exchange.patience_until - now, timeouts.response_s))
        framing = _UPGRADE if exchange.upgrades else length_line(length)
        payload = exchange.take_pending()
        if self._chunked and payload:
            payload = chunk(payload)
        data = exchange.message(instance, timeout, framing, payload)
        upstream.send(self, data, done, exchange.upgrades)
        if done:
            plane.wheel.set(upstream, now + timeouts.response_s)
        else:
            plane.wheel.set(upstream, NEVER)
            exchange.invite()

    # upstream.Receiver

    def answered(
        self, head: ResponseHead, payload: bytes, done: bool, has_body: bool, now: float
    ) -> None:
        """The instance's head came, with what there was of the body."""
        instance = self.instance
        special, status = head.special, head.status
        if special and LOAD in special:
            self._report(special[LOAD], now)
        instance.load.is_new = False
        # Refusals and complaints are quick: they say nothing of how fast an instance works.
        self.teaches = status < 400
        self.is_well = status < 500
        if not self.is_well:
            self.failed = not (status == 503 and RETRY_AFTER in special)
            if 502 <= status <= 504 and self.failed:
                self._blame("gateway_error", now)
        if done:
            self._complete(now)
        self.exchange.answered(self, head, payload, done, has_body, now)

    def received(self, payload: bytes, done: bool, now: float) -> None:
        if done:
            self._complete(now)
        self.exchange.body(payload, done, now)

    def broke(self, reason: str, detail: str) -> None:
        """The connection failed; `reason` names by whose blame."""
        self.failed = True
        reused = self.upstream is not None and self.upstream.is_reused
        self.upstream = None
        now = self.instance.plane.now()
        self._end(now, learn=False)
        if reason != "reset" or not reused or self.exchange.head_sent:
            self._blame(reason, now)
        self.exchange.attempt_failed(self, reason, detail, was_reused=reused)

    def switched(self, head: ResponseHead, rest: bytes) -> None:
        if self.instance.ejection is not CLEAR:
            self.instance.note("success", self.instance.plane.now())
        self.exchange.switched(self, head, rest)

    def tunnelled(self, data: bytes) -> None:
        raise AssertionError("a tunnel takes over its connection")

    def sending_paused(self) -> None:
        self.exchange.hold_client()
        if self.upstream is not None and not self.upstream.request_done:
            plane = self.instance.plane
            idle_s = self.instance.backend.config.timeouts.idle_s
            plane.wheel.set(self.upstream, plane.now() + idle_s)

    def sending_resumed(self) -> None:
        if self.upstream is not None and not self.upstream.request_done:
            self.instance.plane.wheel.set(self.upstream, NEVER)
        self.exchange.release_client()

    # the guard

    def _complete(self, now: float) -> None:
        """The whole answer is there. Only now it is a success: a head is easily sent."""
        self.upstream = None
        if self.is_well:
            self.instance.refused = False
            if self.instance.ejection is not CLEAR:
                self.instance.note("success", now)
        self._end(now, learn=self.teaches)

    def overdue(self, now: float) -> None:
        """The route's own deadline passed while the instance had the request."""
        self.failed = True
        self.cancel()
        self._blame("timeout", now)

    def _blame(self, signal: str, now: float) -> None:
        """Gives evidence against the instance; none that is older than its return: what was
        sent to it while it hung says nothing of it now."""
        if not self._is_stale:
            self.instance.note(signal, now)

    @property
    def _is_stale(self) -> bool:
        """Whether this was sent before the instance came back."""
        return 0.0 < self.sent_at < self.instance.returned_at

    def _end(self, now: float, learn: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        instance = self.instance
        if learn or (self.failed and not self._is_stale):
            load = instance.load
            failures = load.failures
            load.answered(now, now - self.sent_at, self._occupied, self.failed)
            if load.failures != failures:
                instance.plane.failed(instance)
        instance.freed()

    def end_tunnel(self, now: float) -> None:
        """A tunnel is over; it teaches nothing of speed."""
        self.upstream = None
        self._end(now, learn=False)

    def _report(self, value: bytes, now: float) -> None:
        """Reads an ORCA load report; one that is malformed is no report."""
        try:
            metrics = orjson.loads(value.removeprefix(b"JSON "))["named_metrics"]
            queue, running, slots, wait_ms = map(float, _reported(metrics))
        except (ValueError, KeyError, TypeError):
            return
        instance = self.instance
        instance.report = queue, running, slots, wait_ms
        instance.load.reported(now, queue, running, slots, wait_ms)

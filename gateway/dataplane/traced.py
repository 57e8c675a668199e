"""Which spans does a request leave?

An Exchange that is watched: the request, its wait in the queue and each of its attempts. Only
where tracing is on is this class used at all (`worker`); without it a request goes the
same way as if there were no tracing. It decides nothing about the request: each step is the
Exchange's, with a note before or after it.
"""

from typing import TYPE_CHECKING

from gateway.core.heads import RequestHead
from gateway.core.lines import FORWARDED_HOST, FORWARDED_PROTO
from gateway.core.response_heads import ResponseHead
from gateway.core.tracing import (
    Attributes,
    error_type,
    host_facts,
    is_error,
    method_of,
    parse_traceparent,
    path_of,
    span_name,
    trace_of,
    without_trace,
)
from gateway.dataplane.admitting import WAITING
from gateway.dataplane.attempt import Attempt
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.connection import Connection
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.plane import Plane
from gateway.dataplane.replies import RESERVED

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from gateway.telemetry.tracing import Tracing


class TracedExchange(Exchange):
    """One request of one client, with its spans."""

    __slots__ = (
        "_answered", "_broken", "_is_kept", "_lines", "_queued_at", "_request", "_tracing",
        "_try",
    )  # fmt: skip

    def __init__(self, plane: Plane, client: Connection, head: RequestHead, now: float) -> None:
        # The client may say the same head again: what is passed on of it is changed in a copy.
        super().__init__(plane, client, head.copy(), now)
        assert plane.tracing is not None
        self._tracing: Tracing = plane.tracing
        self._request: Span | None = None
        self._is_kept = True  # until the sampler has said otherwise
        self._try: Span | None = None
        self._lines = self.head.forward
        self._queued_at = 0.0
        self._answered = 0
        self._broken = ""

    # -- the steps

    def enter(self, backend: LiveBackend, now: float) -> None:
        self._pass_on(self._began())
        super().enter(backend, now)
        if self.state == WAITING and self._is_kept:
            self._queued_at = self.plane.now()

    def copy(self, route: LiveRoute, backend: LiveBackend) -> None:
        # What a mirror gets belongs to the request, and to no attempt.
        self._pass_on(self._began())
        super().copy(route, backend)
        if self._try is not None:
            self._pass_on(self._try)

    def begin(self, instance: LiveInstance, now: float) -> None:
        if self._is_kept:
            self._waited(now, "")
            self._end_try(now, "")
            self._begin_try(instance, now)
        super().begin(instance, now)

    def answered(
        self,
        attempt: Attempt,
        head: ResponseHead,
        payload: bytes,
        done: bool,
        has_body: bool,
        now: float,
    ) -> None:
        """Notes the status for the attempt's span."""
        self._answered = head.status
        super().answered(attempt, head, payload, done, has_body, now)

    def switched(self, attempt: Attempt, head: ResponseHead, rest: bytes) -> None:
        self._answered = head.status
        super().switched(attempt, head, rest)

    def attempt_failed(
        self, attempt: Attempt, reason: str, detail: str, was_reused: bool = False
    ) -> None:
        self._broken = reason
        super().attempt_failed(attempt, reason, detail, was_reused)

    def _finish(self, now: float, reason: str) -> None:
        if self._is_kept and not self.head.target.startswith(RESERVED):
            self._waited(now, reason)
            self._end_try(now, reason)
            self._end_request(now, reason)
        super()._finish(now, reason)

    # -- the spans

    def _began(self) -> "Span":
        """The request's span. It begins with the request, though it may be made at its end."""
        if self._request is not None:
            return self._request
        head = self.head
        said = head.traceparent
        parent = parse_traceparent(said) if said is not None else None
        if said is not None:
            self._lines = without_trace(head.forward)
        path = self.route.route.match.path if self.route is not None else ""
        facts: Attributes = {  # what a sampler may decide by; the rest is said at the end
            "http.request.method": method_of(head.method),
            "url.path": path_of(head.target),
        }
        if self.route is not None:
            facts |= {"http.route": path, "headgate.route": self.route.route.name}
        self._request = span = self._tracing.request(
            parent, trace_of(self.request_id), span_name(head.method, path), facts, self.started
        )
        self._is_kept = span.is_recording()
        return span

    def _pass_on(self, span: "Span") -> None:
        """Makes the instance's span a child of `span`."""
        line = self._tracing.line(span)
        self.head.forward = [*self._lines, line]
        self.head.traceparent = line
        self.head.prepared = None

    def _begin_try(self, instance: LiveInstance, now: float) -> None:
        facts: Attributes = {
            "http.request.method": method_of(self.head.method),
            "url.path": path_of(self.target),
            **host_facts(instance.address),
            **self._whose(instance),
        }
        if self.attempts:
            facts["http.request.resend_count"] = self.attempts
        name = span_name(self.head.method, "")
        self._try = self._tracing.child(self._began(), name, facts, now, outward=True)
        self._pass_on(self._try)

    def _waited(self, now: float, reason: str) -> None:
        """The wait in the queue is over, if there was one."""
        if not self._queued_at:
            return
        since, self._queued_at = self._queued_at, 0.0
        backend = self.backend.name if self.backend is not None else ""
        facts: Attributes = {"headgate.backend": backend}
        if reason:
            facts["error.type"] = reason
        span = self._tracing.child(self._began(), "queue", facts, since)
        self._tracing.end(span, {}, is_error(0, reason), now)

    def _end_try(self, now: float, reason: str) -> None:
        span, self._try = self._try, None
        if span is None:
            return
        status, broken = self._answered, self._broken or reason
        self._answered, self._broken = 0, ""
        facts: Attributes = {"http.response.status_code": status} if status else {}
        kind = error_type(status, broken, least=400)
        if kind:
            facts["error.type"] = kind
        self._tracing.end(span, facts, status >= 400 or is_error(0, broken), now)

    def _end_request(self, now: float, reason: str) -> None:
        span, status = self._began(), self.status
        if not self._is_kept:
            return
        facts: Attributes = {
            "url.scheme": self._said(FORWARDED_PROTO, self.client.scheme),
            "client.address": self.asker.decode(),
            "headgate.request_id": self.request_id.decode("latin-1"),
            "http.response.status_code": status,
            "http.request.body.size": self.received,
            "http.response.body.size": self.sent,
        }
        facts |= host_facts(self._said(FORWARDED_HOST, self.head.host or b""))
        if self.route is not None:
            facts |= {"headgate.revision": self.revision, "headgate.attempts": self.attempts}
            if self.attempt is not None:
                facts |= self._whose(self.attempt.instance)
            elif self.backend is not None:
                facts["headgate.backend"] = self.backend.name
        kind = error_type(status, reason, least=500)
        if kind:
            facts["error.type"] = kind
        self._tracing.end(span, facts, is_error(status, reason), now)

    def _said(self, kind: int, own: bytes) -> str:
        """What a trusted proxy says of the request as its client sent it, else our `own`."""
        said = self.head.known.get(kind, own) if self.client.trusted else own
        return said.partition(b",")[0].decode("latin-1")

    def _whose(self, instance: LiveInstance) -> Attributes:
        return {
            "headgate.backend": instance.backend.name,
            "headgate.instance": instance.address,
            "headgate.revision": self.revision,
        }

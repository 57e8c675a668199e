"""How does one request go from its decision to the last byte of its answer?

The walk: a backend was chosen; instance; attempt; perhaps another one; the account. From the
one read of the snapshot until an instance is chosen nothing awaits, hence no lock. The
client's connection is `listener`, the instance's `upstream`; this is what lies between.
"""

from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.errors import GatewayError, NoRoom, UpstreamFault
from gateway.core.framing import LAST_CHUNK, chunk
from gateway.core.headers import length_line
from gateway.core.heads import CHUNKED, CRLF, RequestHead
from gateway.core.health import had_time
from gateway.core.lines import FORWARDED_FOR, RETRY_AFTER
from gateway.core.response_heads import ResponseHead
from gateway.core.retrying import may_retry
from gateway.dataplane.admitting import ANSWERING, OVER, STATES, TRYING, TUNNEL, WAITING
from gateway.dataplane.attempt import Attempt
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.coding import PIECE, Coded, Coding, coded_whole
from gateway.dataplane.connection import Connection
from gateway.dataplane.deadlines import NEVER
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.judge import Trial, is_refusal
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.mirroring import ask_again, mirror
from gateway.dataplane.pairing import Pair
from gateway.dataplane.plane import Plane
from gateway.dataplane.replying import Replying
from gateway.dataplane.retry import Failure, next_instance
from gateway.dataplane.shaping import Shape
from gateway.dataplane.tunnel import Tunnel

_CODES: Final = {"connect_failure": "connect_failed", "timeout": "response_timeout"}


def _takes_nothing(head: ResponseHead) -> bool:
    """Whether an instance of ours (it reports its load) takes nothing yet or any more: a full
    one says 503 too, but keeps its connections."""
    return head.close and head.load is not None


@mypyc_attr(allow_interpreted_subclasses=True)
class Exchange(Replying, Coded):
    """One request of one client. Its deadline is the queue's, or the request's own."""

    __slots__ = ("_chunked", "_coding", "attempts", "first_at", "tried")

    def __init__(self, plane: Plane, client: Connection, head: RequestHead, now: float) -> None:
        Replying.__init__(self, plane, client, head, now)
        self.backend = None
        self.head_sent = False
        self.sent = self.status = 0
        self.attempts = 0
        self.tried: tuple[LiveInstance, ...] = ()
        self.first_at = 0.0
        self._chunked = False
        self._coding: Coding | None = None

    def __repr__(self) -> str:
        of = f"{self.head.method.decode()} {self.head.target.decode('latin-1')}"
        at = f" at {self.attempt.instance.address}" if self.attempt is not None else ""
        return f"<{of}: {STATES[self.state]}{at}, attempts {self.attempts}>"

    def enter(self, backend: LiveBackend, now: float) -> None:
        """A backend was chosen: its next instance with room, at once or after a wait."""
        self.backend = backend
        self.state = WAITING
        backend.enter(self, now)
        route = self.route
        if route is not None and route.mirror is not None and self.state != OVER:
            self.copy(route, backend)

    def copy(self, route: LiveRoute, backend: LiveBackend) -> None:
        """Has sent what is to be copied of it, once no client's request waits for that."""
        self.pair = mirror(self, route, backend)

    def move_on(self) -> None:
        """Goes on to the backend that takes over, as the one chosen has nobody left for what comes;
        else waits on for those that finish what they have. Nothing was sent yet."""
        assert self.route is not None
        assert self.backend is not None
        before, trial = self.backend, self.trial
        text = "No instance can take the request now."
        if before.asleep:
            text = "The model is not loaded now; a prediction loads it."
        try:
            try:
                other = self.route.after(before, self.head)
                if other is None or not other.available:
                    other = self.as_edited()
                if other is None:
                    raise before.start.failure() if before.start.has_failed else NoRoom(text)
                self.backend = other
                self.trial = None  # nothing was tried where it was decided
                other.enter(self, self.plane.now())
            except NoRoom:
                if not before.keep(self):
                    raise
                self.backend, self.trial = before, trial
        except GatewayError as fault:
            self.fail(fault)

    def begin(self, instance: LiveInstance, now: float) -> None:
        """The chosen instance has room: one attempt."""
        self.state = TRYING
        if self.deadline != self.expires_at:
            self.plane.wheel.set(self, self.expires_at)
        self.attempts += 1
        self.plane.idle_queue.sent += 1
        self.attempt = attempt = Attempt(self, instance, now)
        attempt.begin(now)

    # -- the answer

    def interim(self, head: ResponseHead) -> None:
        """Passes on what comes before an answer; one of another attempt may still follow. Clients
        of HTTP/1.0 know no such thing."""
        assert self.route is not None
        if self.head.minor:
            lines, shape = head.passing, self.route.shape
            if shape is not None:
                lines, _ = shape.passing(self.head, head, 0, False)
            self.client.write(lines + CRLF)

    def answered(
        self,
        attempt: Attempt,
        head: ResponseHead,
        payload: bytes,
        done: bool,
        has_body: bool,
        now: float,
    ) -> None:
        """An instance's head came, with what there was of the body."""
        if attempt.failed and self._again(
            attempt, "", done, head.status, RETRY_AFTER in head.known
        ):
            return
        if head.status == 503 and (attempt.instance.health.may_be_another or _takes_nothing(head)):
            # A new process that is not ready yet, or the old one that finishes what it has. The
            # probes shall look now; until they say so it is as if it could not be connected to.
            attempt.instance.note("turned_away", now)
            if self._again(attempt, "connect_failure", done):
                return
        assert self.route is not None
        self.state = ANSWERING
        self.first_at = now
        self.status = head.status
        self._kept = None
        self.head_sent = True
        client, plane = self.client, self.plane
        if self.trial is not None and self.trial.gathers:
            self.trial.gather(payload)
        if self.pair is not None:
            self.pair.main.begin(head, payload)
        passing, shape, came = head.passing, self.route.shape, payload
        if shape is None:
            framing = self._framing(head, payload, done, has_body)
        else:
            passing, framing, payload = self._shaped(shape, head, payload, done, has_body)
        self.sent = len(payload)
        if self._chunked and payload:
            payload = chunk(payload)
        client.write(
            b"".join(
                (
                    passing, self.route.at(attempt.instance).lines,
                    self.shown, self.request_id + CRLF if plane.options.expose else b"",
                    framing, client.ending(self.head.minor), payload,
                )
            )
        )  # fmt: skip
        if self._coding is not None:
            self._coding.add(came, done)
        elif done:
            self._finish(now, "")

    def _shaped(
        self, shape: Shape, head: ResponseHead, payload: bytes, done: bool, has_body: bool
    ) -> tuple[bytes, bytes, bytes]:
        """The lines that pass, the framing, and what of the body goes with the head; the rest goes
        through a Coding where the body is compressed."""
        announced = -1 if head.length is None else head.length
        size = len(payload) if done and has_body else announced
        passing, coding = shape.passing(self.head, head, size, has_body)
        if coding is None:
            return passing, self._framing(head, payload, done, has_body), payload
        if not has_body:
            return passing, b"", b""  # how long it would be nobody knows
        if done and size <= PIECE:
            payload = coded_whole(payload, coding)
            return passing, length_line(len(payload)), payload
        self._chunked = True
        self._coding = Coding(self, self.plane, coding, announced < 0)
        return passing, b"Transfer-Encoding: chunked\r\n", b""

    def _framing(self, head: ResponseHead, payload: bytes, done: bool, has_body: bool) -> bytes:
        if not has_body:
            if head.length is None or head.length == CHUNKED or head.status == 204:
                return b""
            return length_line(head.length)
        if done:
            return length_line(len(payload))
        if head.length is not None and head.length != CHUNKED:
            return length_line(head.length)
        if self.head.minor == 0:
            self.client.ends_body = True
            return b""
        self._chunked = True
        return b"Transfer-Encoding: chunked\r\n"

    def body(self, payload: bytes, done: bool, now: float) -> None:
        """More of the instance's body came."""
        if self.trial is not None and self.trial.gathers:
            self.trial.gather(payload)
        if self.pair is not None:
            self.pair.main.add(payload)
        size = len(payload)
        if self._chunked:
            if self._coding is not None:
                self._coding.add(payload, done)
                return
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if done else b"")
        self.sent += size
        if payload:
            self.client.write(payload)
        if done:
            self._finish(now, "")

    def coded(self, data: bytes, done: bool) -> None:
        if self.state == OVER:
            return
        self.sent += len(data)
        self.client.write((chunk(data) if data else b"") + (LAST_CHUNK if done else b""))
        if done:
            self._finish(self.plane.now(), "")

    def switched(self, attempt: Attempt, head: ResponseHead, rest: bytes) -> None:
        """The instance took the upgrade: from here on bytes are passed both ways."""
        assert self.route is not None
        assert attempt.upstream is not None
        self.state = TUNNEL
        self.status = 101
        self.first_at = self.plane.now()
        self.head_sent = True
        self.plane.wheel.set(self, NEVER)
        lines, shape = head.passing, self.route.shape
        if shape is not None:
            lines, _ = shape.passing(self.head, head, 0, False)
        lines += self.route.at(attempt.instance).lines
        lines += self.shown  # what is left of limits is told whatever else is exposed
        if self.plane.options.expose:
            lines += self.request_id + CRLF
        tunnel = Tunnel(self.client, attempt.upstream, self.tunnel_over)
        self.client.tunnel(tunnel)
        self.client.write(lines + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        if rest:
            tunnel.tunnelled(rest)

    def tunnel_over(self, reason: str, received: int, sent: int) -> None:
        self.received, self.sent = received, sent
        now = self.plane.now()
        if self.attempt is not None:
            self.attempt.end_tunnel(now)
        self._finish(now, reason)

    # -- what goes wrong

    def attempt_failed(
        self, attempt: Attempt, reason: str, detail: str, was_reused: bool = False
    ) -> None:
        """The instance broke off. Another attempt only before any byte of an answer went to the
        client."""
        if self.state == OVER:
            return
        code = _CODES.get(reason, "upstream_broke")
        if self.head_sent:
            self.client.abort()
            self._finish(self.plane.now(), code)
            return
        if attempt.is_ours:
            self.plane.live.close_watched()
        if self._again(attempt, reason, True, was_reused=was_reused):
            return
        self.refuse(UpstreamFault(detail, code))

    def _again(
        self,
        attempt: Attempt,
        reason: str,
        done: bool,
        status: int | None = None,
        has_retry_after: bool = False,
        was_reused: bool = False,
    ) -> bool:
        """Begins another attempt if that is safe, wanted and paid for."""
        route, backend, head, failed = self.route, self.backend, self.head, attempt.instance
        assert route is not None
        assert backend is not None
        method, is_whole = head.method.decode("latin-1"), self.is_replayable
        if not may_retry(
            route.retries, method, reason, status, has_retry_after,
            self.attempts, is_whole, self.head_sent,
        ):  # fmt: skip
            return False
        why = (reason, status, was_reused, attempt.is_ours)
        found = next_instance(self.plane, Failure(route, backend, head, self.tried, failed, *why))
        if found is not None and found.is_same:
            self.attempts -= 1
        else:
            self.tried = (*self.tried, failed)
        if found is None:
            return False
        if self.trial is not None and not found.is_same:
            if is_refusal(status, attempt.failed):
                self.trial.refuse()
            else:
                self.trial.end(attempt.failed, 0.0)
            self.trial = None  # what comes of it now counts for nobody
        self.backend = found.backend
        if not done:
            attempt.cancel()
        self._replay()
        self.begin(found.instance, self.plane.now())
        return True

    def fail(self, fault: GatewayError) -> None:
        """Ends a request that may already be under way."""
        self._withdraw()
        if self.head_sent:
            self.client.abort()
            self._finish(self.plane.now(), fault.code)
        else:
            self.refuse(fault)

    def client_left(self) -> None:
        """The client's connection ended: the instance is told at once."""
        if self.state == OVER:
            return
        self._withdraw()
        if not self.head_sent:
            self.status = 499
        self._finish(self.plane.now(), "client_left")

    def expired(self, now: float) -> None:
        """The deadline passed: of the whole request (504), or of its wait in the queue (503)."""
        if self.state == OVER:
            return
        if now >= self.expires_at:
            if self.attempt is not None and self.blames_instance and self._had_time():
                self.attempt.overdue(now)
            self.fail(self.too_late())
        elif self.state == WAITING and self.backend is not None:
            self.fail(self.backend.too_late(now))

    def _had_time(self) -> bool:
        """Whether the instance could have kept the deadline, or is it that does not read."""
        assert self.attempt is not None
        whole_at = self.started if self.client.is_paused else self.whole_at
        return had_time(self.started, max(whole_at, self.attempt.sent_at), self.expires_at)

    def _withdraw(self) -> None:
        if self.state == WAITING and self.backend is not None:
            self.backend.withdraw(self)
        attempt = self.attempt
        if attempt is not None:
            attempt.cancel()

    # -- back-pressure

    def pause_instance(self) -> None:
        """Stops reading: the client does not take what it gets."""
        if self._coding is not None:
            self._coding.is_held = True
        self.hold_instance()

    def resume_instance(self) -> None:
        """Reads on: the client takes more."""
        if self._coding is not None:
            self._coding.is_held = False
            if self._coding.is_busy:
                return
        self.release_instance()

    def hold_instance(self) -> None:
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.pause()

    def release_instance(self) -> None:
        if self.attempt is not None and self.attempt.upstream is not None:
            self.attempt.upstream.resume()

    def _finish(self, now: float, reason: str) -> None:
        self.state = OVER
        if self._decides:
            self.forgo_body()
        if self.armed != NEVER:
            self.plane.wheel.drop(self)
        if self.trial is not None:
            self._end_trial(self.trial, now, reason)
        if self.pair is not None:
            self._end_pair(self.pair, reason)
        self._book(now, reason)
        if self.buckets:
            self.leave_limits()
        if self._coding is not None:
            self._coding.stop()
        self.attempt = None  # no cycle: what is over is freed at once, not by the collector
        self.client.finished(now)

    def _end_trial(self, trial: Trial, now: float, reason: str) -> None:
        """The first attempt counts for the arm that the request was decided for: if one was made,
        and its instance had the time to answer, or was slow by then."""
        attempt = self.attempt
        if attempt is None:
            if reason in ("queue_full", "queue_timeout"):  # as busy as one that says so itself
                trial.refuse()
            return
        if attempt.is_ours:
            return
        is_left = reason == "client_left" and not self.head_sent
        if is_left or (reason == "deadline" and not self.first_at and not attempt.failed):
            # Nobody waits any more, be it that the client said beforehand for how long it would.
            trial.leave(now - max(self.whole_at, attempt.sent_at))
            return
        if is_refusal(self.status, attempt.failed):
            trial.refuse()
            return
        seconds = 0.0
        if self.first_at and self.status != 101 and reason != "client_left":
            # Of a body whose end nobody knows beforehand the first byte is the answer.
            seconds = (self.first_at if self._chunked else now) - attempt.sent_at
        trial.end(attempt.failed, seconds, not reason and 200 <= self.status < 300)

    def _end_pair(self, pair: Pair, reason: str) -> None:
        """What the client got is one half of it, if it is whole and an instance's."""
        name = self.backend.name if self.backend is not None else ""
        pair.answered_by(name, not reason and self.first_at > 0.0 and self.status != 101)
        ask_again(self, pair, self.backend)
        self.pair = None

    @property
    def asker(self) -> bytes:
        """The address of who asked: of the peer, or of whom a proxy that is trusted asks for."""
        client = self.client
        if not client.trusted:
            return client.peer
        hops = self.head.known.get(FORWARDED_FOR)
        return client.peer if hops is None else self.plane.client_of(client.peer, hops)

    def _book(self, now: float, reason: str) -> None:
        """Counts what the client saw, once per request; `reason` is "" when nothing went wrong."""
        route, attempt, head, plane = self.route, self.attempt, self.head, self.plane
        started = self.started
        if route is not None and attempt is not None:
            cell = route.at(attempt.instance).cell
            if self.first_at:
                own_s = max(0.0, attempt.sent_at - self.ready_at)
                cell.times.count(now - started, self.first_at - started, own_s)
        else:
            name = route.route.name if route is not None else ""
            backend = self.backend.name if self.backend is not None else ""
            cell = plane.counters.cell(name, backend, "")
        cell.count(head.method, self.status, reason)
        consumer = b""
        admitted = self.admitted
        if admitted is not None and admitted.key is not None:
            admitted.consumed(cell).count(self.status)
            consumer = admitted.told
        ledger = plane.ledger
        ledger.add(
            (
                now, self.request_id, self.asker, head.method, head.target, self.status,
                reason, cell.told, consumer, self.revision, self.attempts, self.received,
                self.sent, now - started,
            )
            if ledger.is_on
            else None
        )  # fmt: skip

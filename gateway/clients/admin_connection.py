"""How is the admin API of a gateway asked one thing, and how does it say no?

One synchronous connection per question over the standard library. It keeps no state and retries
nothing: an edit sent twice is two edits. What can be asked is `gateway.clients.admin`.
"""

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from urllib.parse import quote, urlencode

import orjson

from gateway.clients.addresses import DEFAULT_URL, address_of, bearer
from gateway.clients.errors import Json, Unreachable, no_answer, refusal
from gateway.processes.trusting import trusting

# What every admin API has: who does not know one of these is something else.
ALWAYS_THERE = frozenset(
    f"/admin/v1/{name}" for name in ("apply", "events", "history", "status", "table")
)
NOT_FOUND = "not_found"  # the error's name where an admin API does not know what was asked for

QUIET_S = 30.0
"""How long a stream of events may be silent at least: a gateway that has nothing to tell says so
every 15 seconds."""


@dataclass(frozen=True, slots=True)
class Change:
    """How an edit is made: why, tried only, and only if the resource still has this ETag."""

    reason: str = ""
    dry_run: bool = False
    etag: str | None = None

    def headers(self) -> dict[str, str | bytes]:
        """ValueError when the reason is no single line."""
        headers: dict[str, str | bytes] = {}
        if self.reason:
            if not self.reason.isprintable():
                raise ValueError("a reason is one line of printable characters")
            headers["X-Change-Reason"] = self.reason.encode()
        if self.etag is not None:
            headers["If-Match"] = self.etag
        return headers

    def query(self) -> dict[str, str]:
        return {"dry_run": "true"} if self.dry_run else {}


PLAIN = Change()


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: its body and the entity tag of what it is about."""

    body: Json
    etag: str


class AdminConnection:
    """The admin API at `url`, asked with `token` where there is one.

    Refused when the gateway says no, Unreachable when it cannot be asked. `timeout_s` bounds each
    wait on the socket, but for one between events. At https:// it must show a certificate that
    `tls` trusts (see `trust`), by default one that the system does.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address_of(url, "an admin API")
        self.url = self._address.url
        self._authorization = bearer(token, "a token")
        self._timeout_s = timeout_s
        self._tls = tls

    def _ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        change: Change = PLAIN,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        media_type: str = "application/json",
        has: str = "revision",
    ) -> Answer:
        """The answer, which `has` this name, as every admin API gives it; without one, an ETag."""
        if isinstance(body, dict):
            content: bytes | None = orjson.dumps(body)
        else:
            content = body
        headers = change.headers()
        if content is not None:
            headers["Content-Type"] = media_type
        target = _with_query(path, {**(query or {}), **change.query()})
        connection, response = self._open(method, target, content, headers)
        try:
            answer = Answer(_decoded(response.read()), response.headers.get("ETag", ""))
        except (OSError, http.client.HTTPException) as error:
            raise no_answer(f"{self.url} broke off its answer", error) from None
        finally:
            connection.close()
        # Something else that answers everything with 200 is to be told from an empty gateway.
        if not (has in answer.body if has else answer.etag):
            raise _no_admin_api(self.url)
        return answer

    def _open(
        self,
        method: str,
        target: str,
        content: bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        *,
        accept: str = "application/json",
        connected: Callable[[socket.socket], object] | None = None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A connection and the successful answer read from it so far: its head. `connected` is
        told its socket as soon as there is one."""
        connection = self._connection()
        sent: dict[str, str | bytes] = {"Accept": accept, "User-Agent": "headgate"}
        sent.update(headers or {})
        if self._authorization is not None:
            sent["Authorization"] = self._authorization.encode()
        try:
            connection.connect()
            if connected is not None:
                connected(connection.sock)
            connection.request(method, self._address.base + target, content, sent)
            response = connection.getresponse()
            if response.status < 300:
                return connection, response
            problem = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = f"no gateway answers at {self.url}"
            if isinstance(error, http.client.RemoteDisconnected) and not self._address.secure:
                said += " (one that speaks TLS answers at https:// alone)"
            raise no_answer(said, error) from None
        connection.close()
        refused = refusal(response.status, response.reason, response.headers.get, problem)
        is_always_there = target.partition("?")[0] in ALWAYS_THERE
        if response.status == 404 and (is_always_there or refused.code != NOT_FOUND):
            raise _no_admin_api(self.url)
        raise refused

    def _connection(self) -> http.client.HTTPConnection:
        at = self._address
        if at.secure:
            context = self._tls or trusting()
            return http.client.HTTPSConnection(
                at.host, at.port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(at.host, at.port, timeout=self._timeout_s)


class EventStream(Iterator[Json]):
    """The events that are sent at `path`, one by one, until the gateway goes away.

    The first `next` asks for them, and raises as an AdminClient does. `close`, from any thread and
    without waiting, ends the connection, and with it a `next` that waits in another.
    """

    def __init__(self, asked: AdminConnection, path: str) -> None:
        self._asked = asked
        self._path = path
        self._socket: socket.socket | None = None
        self._opened: tuple[http.client.HTTPConnection, http.client.HTTPResponse] | None = None
        self._reading = Lock()  # held by who reads: nothing is taken away below it
        self._is_closed = False

    def __next__(self) -> Json:
        try:
            with self._reading:
                event = None if self._is_closed else self._read()
        except BaseException:
            self.close()
            raise
        if event is None or self._is_closed:
            self.close()
            raise StopIteration
        return event

    def close(self) -> None:
        """Ends the connection: nothing comes any more."""
        self._is_closed = True
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes who reads, who comes here next
        if self._reading.acquire(blocking=False):
            with suppress(OSError):
                for each in reversed(self._opened or ()):
                    each.close()
            self._reading.release()

    def _read(self) -> Json | None:
        if self._opened is None:
            try:
                self._opened = self._asked._open(
                    "GET", self._path, accept="text/event-stream", connected=self._connected
                )
            except Unreachable:
                if self._is_closed:
                    return None
                raise
            if self._opened[1].headers.get_content_type() != "text/event-stream":
                raise _no_admin_api(self._asked.url)
            if self._socket is not None:
                self._socket.settimeout(max(QUIET_S, self._asked._timeout_s))
        try:
            return _next_event(self._opened[1])
        except (OSError, http.client.HTTPException):
            return None  # a stream ends when the gateway does: the next call says why
        except orjson.JSONDecodeError:
            raise _no_admin_api(self._asked.url) from None

    def _connected(self, to: socket.socket) -> None:
        self._socket = to
        if self._is_closed:
            raise OSError("closed before it was open")


def _next_event(response: http.client.HTTPResponse) -> Json | None:
    """The next event; None when no more comes."""
    data: list[bytes] = []
    for line in response:
        text = line.rstrip(b"\r\n")
        if text.startswith(b"data:"):
            data.append(text[5:].lstrip())
        elif not text and data:
            event: Json = orjson.loads(b"\n".join(data))
            return event
    return None


def _no_admin_api(url: str) -> Unreachable:
    return Unreachable(f"what answers at {url} is not the admin API of a gateway")


def segment(name: str) -> str:
    """`name` as one segment of a path."""
    return quote(name, safe=":[]") if name not in (".", "..") else name.replace(".", "%2E")


def _with_query(path: str, query: Mapping[str, str | Sequence[str]]) -> str:
    return f"{path}?{urlencode(query, doseq=True)}" if query else path


def _decoded(content: bytes) -> Json:
    if not content:
        return {}
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise Unreachable("what answered is not an admin API: its answer is not JSON") from None
    return answer if isinstance(answer, dict) else {"items": answer}

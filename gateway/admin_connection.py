"""How is the admin API of a gateway asked one thing, and how does it say no?

One synchronous connection per question over the standard library. It keeps no state and retries
nothing: an edit sent twice is two edits. What can be asked is `gateway.client`.
"""

import http.client
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import orjson

DEFAULT_URL = "http://127.0.0.1:8081"
# What every admin API has: who does not know one of these is something else.
ALWAYS_THERE = frozenset(
    f"/admin/v1/{name}" for name in ("apply", "events", "history", "status", "table")
)

Json = dict[str, Any]


class Fault(TypedDict):
    """One thing wrong with what was sent; `pointer` is a JSON pointer into it."""

    pointer: str
    code: str
    detail: str


class Unreachable(Exception):
    """Nobody answered at the URL, or what answered does not speak HTTP."""


class Refused(Exception):
    """The admin API said no; `status`, `detail` and every fault it named."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail") or problem.get("title") or f"status {status}")
        self.faults: list[Fault] = list(problem.get("errors") or ())
        super().__init__(self.detail)


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


def trust(
    ca: str | None = None, cert: str | None = None, key: str | None = None, *, is_own: bool = False
) -> ssl.SSLContext:
    """The context for an AdminClient that trusts what is in the file `ca` (left out: what the
    system trusts) and shows the certificate in `cert` with its `key` where one is asked for. What
    is in `ca` `is_own`: the very certificate that the gateway shows, whoever signed it and whatever
    name is in it. ValueError names the file that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{ca} holds no certificates: {_words(error)}") from None
    if is_own:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if cert:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            said = f"{cert} and its key cannot be used"
            raise ValueError(f"{said}: {_words(error)}") from None
    return context


class AdminConnection:
    """The admin API at `url`, asked with `token` where there is one.

    Refused when the gateway says no, Unreachable when it cannot be asked. `timeout_s` bounds each
    wait on the socket. At https:// it must show a certificate that `tls` trusts (see `trust`), by
    default one that the system does.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts, port = _split(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the http:// or https:// URL of an admin API")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"{url!r} must be just a scheme, a host, a port and perhaps a path")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._secure else 80)
        self._base = parts.path.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._tls = tls
        self.url = f"{parts.scheme}://{parts.netloc}{self._base}"

    def _ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        change: Change = PLAIN,
        *,
        query: Mapping[str, str | Sequence[str]] | None = None,
        media_type: str = "application/json",
    ) -> Answer:
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
            return Answer(_decoded(response.read()), response.headers.get("ETag", ""))
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.url} broke off its answer: {_words(error)}") from None
        finally:
            connection.close()

    def _stream(self, path: str) -> Iterator[Json]:
        """The events that are sent at `path`, until the gateway goes away."""
        connection, response = self._open("GET", path, accept="text/event-stream")
        try:
            data: list[bytes] = []
            for line in response:
                text = line.rstrip(b"\r\n")
                if text.startswith(b"data:"):
                    data.append(text[5:].lstrip())
                elif not text and data:
                    yield orjson.loads(b"\n".join(data))
                    data = []
        except (OSError, http.client.HTTPException):
            return  # a stream ends when the gateway does: the next call says why
        finally:
            connection.close()

    def _open(
        self,
        method: str,
        target: str,
        content: bytes | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        *,
        accept: str = "application/json",
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """A connection and the successful answer read from it so far: its head."""
        connection = self._connection()
        sent: dict[str, str | bytes] = {"Accept": accept, "User-Agent": "headgate"}
        sent.update(headers or {})
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection.request(method, self._base + target, content, sent)
            response = connection.getresponse()
            if response.status < 300:
                return connection, response
            problem = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(f"no gateway answers at {self.url}: {_words(error)}") from None
        connection.close()
        if response.status == 404 and target.partition("?")[0] in ALWAYS_THERE:
            raise Unreachable(f"what answers at {self.url} is not the admin API of a gateway")
        raise Refused(response.status, _problem(problem, response))

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            context = self._tls or ssl.create_default_context()
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts, parts.port
    except ValueError:
        return urlsplit(""), None


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


def _problem(content: bytes, response: http.client.HTTPResponse) -> Json:
    try:
        problem = orjson.loads(content)
    except orjson.JSONDecodeError:
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"title": response.reason, "detail": f"{response.status} {response.reason}".strip()}


def _words(error: Exception) -> str:
    """What went wrong in words: the name of the error where it brings none of its own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"no TLS there ({error.reason.replace('_', ' ').lower()})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__

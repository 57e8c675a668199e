"""How does a Python program talk to the admin API of a running gateway?

One synchronous connection per call over the standard library, so that the command line starts
fast and a script needs nothing else. It speaks the admin API and nothing more: it keeps no
state, retries nothing (an edit sent twice is two edits) and prints nothing.
"""

import http.client
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast
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


class Weights(TypedDict):
    """One split; `effective` are the shares after health, `etag` binds an edit to this state."""

    revision: int
    route: str
    weights: dict[str, int]
    effective: dict[str, float]
    etag: str


class WeightsEdit(TypedDict):
    """The answer to an edit of a split, once no new request is decided by the old one."""

    revision: int
    route: str
    previous: dict[str, int]
    weights: dict[str, int]
    applied: dict[str, int]


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


def revision_tag(revision: int) -> str:
    """The entity tag of the whole table at `revision`: for apply and restore."""
    return f'"{revision}"'


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


class AdminClient:
    """The admin API at `url`, asked with `token` where there is one.

    Every method returns the decoded JSON answer. Refused when the gateway says no,
    Unreachable when it cannot be asked. `timeout_s` bounds each wait on the socket. At https:// it
    must show a certificate that `tls` trusts (see `trust`), by default one that the system does.
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

    # -- reading -----------------------------------------------------------------------------

    def table(self) -> Json:
        """What is configured, and its revision."""
        return self._ask("GET", "/admin/v1/table").body

    def status(self) -> Json:
        """What is live: health, in-flight, rates, latencies, workers."""
        return self._ask("GET", "/admin/v1/status").body

    def weights(self, route: str) -> Weights:
        """The split of `route`, as configured and after health."""
        answer = self._ask("GET", f"/admin/v1/routes/{_part(route)}/weights")
        return cast(Weights, {**answer.body, "etag": answer.etag})

    def backend_tag(self, backend: str) -> str:
        """The entity tag of `backend`, which an edit of its instances is bound to."""
        return self._ask("GET", f"/admin/v1/backends/{_part(backend)}").etag

    def backend(self, backend: str) -> Answer:
        """`backend` as it was written, and its entity tag."""
        return self._ask("GET", f"/admin/v1/backends/{_part(backend)}")

    def logs(self, backend: str, *, lines: int = 100, after: int = 0) -> list[Json]:
        """The last lines that instances of `backend` wrote, of those numbered above `after`."""
        query = {"lines": str(lines), **({"after": str(after)} if after else {})}
        answer = self._ask("GET", f"/admin/v1/backends/{_part(backend)}/logs", query=query)
        return list(answer.body["lines"])

    def keys(self) -> Json:
        """The keys by their names, without any secret."""
        return self._ask("GET", "/admin/v1/keys").body

    def key_tag(self, name: str) -> str:
        """The entity tag of key `name`, which an edit of it is bound to."""
        return self._ask("GET", f"/admin/v1/keys/{_part(name)}").etag

    def series(
        self,
        *,
        routes: Iterable[str] = (),
        backends: Iterable[str] = (),
        step_s: int = 10,
        last_s: int = 3600,
    ) -> Json:
        """The last hour of the gateway and of what is named: rates by kind of answer, and
        percentiles, one number for each step."""
        query = {"step": str(step_s), "last": str(last_s)}
        named = {"route": list(routes), "backend": list(backends)}
        return self._ask("GET", "/admin/v1/series", query={**query, **named}).body

    def history(self, limit: int | None = None) -> Json:
        """The edits so far, newest first."""
        query = {} if limit is None else {"limit": str(limit)}
        return self._ask("GET", "/admin/v1/history", query=query).body

    def revision(self, revision: int) -> Json:
        """One edit: who, when, why and the difference it made."""
        return self._ask("GET", f"/admin/v1/history/{revision}").body

    def events(self) -> Iterator[Json]:
        """Edits, health and ejections as they happen, until the gateway goes away."""
        connection, response = self._open("GET", "/admin/v1/events", accept="text/event-stream")
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

    # -- writing -----------------------------------------------------------------------------

    def set_weights(
        self, route: str, weights: Mapping[str, int], change: Change = PLAIN, *, whole: bool = False
    ) -> WeightsEdit:
        """Edits the split of `route`: backends not named keep their weight unless `whole`."""
        path = f"/admin/v1/routes/{_part(route)}/weights"
        method = "PUT" if whole else "PATCH"
        return cast(WeightsEdit, self._ask(method, path, dict(weights), change).body)

    def apply(
        self, content: bytes, change: Change = PLAIN, *, media_type: str = "application/yaml"
    ) -> Json:
        """Applies a whole file's content, three ways with what was edited since."""
        return self._ask("POST", "/admin/v1/apply", content, change, media_type=media_type).body

    def put_route(self, route: str, spec: Mapping[str, Any], change: Change = PLAIN) -> Json:
        return self._ask("PUT", f"/admin/v1/routes/{_part(route)}", dict(spec), change).body

    def delete_route(self, route: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/routes/{_part(route)}", None, change).body

    def patch_backend(self, backend: str, patch: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Changes parts of `backend` (JSON merge patch: null removes a key)."""
        return self._ask("PATCH", f"/admin/v1/backends/{_part(backend)}", dict(patch), change).body

    def restart_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Has each instance of `backend` ended and started again, one after the other."""
        return self._ask("POST", f"/admin/v1/backends/{_part(backend)}/restart", {}, change).body

    def start_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Loads `backend`, which starts on demand, before any request asks for it."""
        return self._ask("POST", f"/admin/v1/backends/{_part(backend)}/start", {}, change).body

    def stop_backend(self, backend: str, change: Change = PLAIN) -> Json:
        """Unloads `backend`, which starts on demand, once it has finished what it has."""
        return self._ask("POST", f"/admin/v1/backends/{_part(backend)}/stop", {}, change).body

    def delete_backend(self, backend: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/backends/{_part(backend)}", None, change).body

    def instance_action(
        self, backend: str, instance: str, action: str, change: Change = PLAIN
    ) -> Json:
        """`action` is drain, resume, disable or enable."""
        path = f"/admin/v1/backends/{_part(backend)}/instances/{_part(instance)}/{action}"
        return self._ask("POST", path, {}, change).body

    def rollout(self, route: str) -> Json:
        """Where the rollout of `route` is, its evidence and its plan; `etag` binds a command to
        the state it is in."""
        path = f"/admin/v1/routes/{_part(route)}/rollout"
        answer = self._ask("GET", path, query={"plan": "true"})
        return {**answer.body, "etag": answer.etag}

    def mirror(self, route: str) -> Json:
        """How often the mirror of `route` agrees with what clients get, and where it does not."""
        return self._ask("GET", f"/admin/v1/routes/{_part(route)}/mirror").body

    def begin_rollout(self, route: str, plan: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Begins a rollout; its first step is in force when this returns."""
        path = f"/admin/v1/routes/{_part(route)}/rollout"
        return self._ask("PUT", path, dict(plan), change).body

    def command_rollout(self, route: str, word: str, change: Change = PLAIN) -> Json:
        """`word` is pause, resume, promote, approve or abort."""
        path = f"/admin/v1/routes/{_part(route)}/rollout/{word}"
        return self._ask("POST", path, {}, change).body

    def forget_rollout(self, route: str, change: Change = PLAIN) -> Json:
        """Forgets a rollout that has ended."""
        path = f"/admin/v1/routes/{_part(route)}/rollout"
        return self._ask("DELETE", path, None, change).body

    def create_key(self, name: str, spec: Mapping[str, Any], change: Change = PLAIN) -> Json:
        """Makes key `name`; `key` of the answer is its secret, which nobody is told again."""
        return self._ask("POST", "/admin/v1/keys", {"name": name, **spec}, change).body

    def key_action(self, name: str, action: str, change: Change = PLAIN) -> Json:
        """`action` is rotate, whose answer holds a further secret, or retire."""
        return self._ask("POST", f"/admin/v1/keys/{_part(name)}/{action}", {}, change).body

    def delete_key(self, name: str, change: Change = PLAIN) -> Json:
        return self._ask("DELETE", f"/admin/v1/keys/{_part(name)}", None, change).body

    def restore(self, revision: int, change: Change = PLAIN, *, opens: bool = False) -> Json:
        """Goes back to `revision`, as a new revision; Refused where that lets in who is kept out
        now, unless it `opens` on purpose."""
        path = f"/admin/v1/history/{revision}/restore"
        return self._ask("POST", path, {}, change, query={"open": "true"} if opens else {}).body

    # -- the wire ----------------------------------------------------------------------------

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


def _part(name: str) -> str:
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

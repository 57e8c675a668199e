"""How does one ask etcd something, whichever of its members is there?

Speaks etcd's JSON gateway (`/v3/…`, etcd 3.4 to 3.6) and knows nothing of what is kept there. A
member that does not answer soon, or has no leader, is left for the next one; what was asked may
then have been done twice, which is for the caller to rule out (by comparing in its transaction).
"""

import asyncio
import base64
import logging
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from gateway.controlplane.store.etcd.clusters import Clusters
from gateway.controlplane.store.store import NotLetIn, StoreError, StoreFull, Unavailable
from gateway.processes.certificates import no_password
from gateway.processes.tasks import Tasks
from gateway.processes.trusting import trusting

log = logging.getLogger(__name__)
Json = Any
CONNECT_S = 1.0
PATIENCE_S = 2.0
WITHIN_S = 5.0
KNOWN_WITHIN_S = 10.0  # to hash a password takes etcd a tenth of a second, or many where it is busy
PAUSE_S = 0.05  # between two rounds over all endpoints
NOT_FOUND, EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 5, 8, 14, 16
NOT_ENABLED = 9  # authentication is
STATUS = "/v3/maintenance/status"  # which nobody needs to be let in for
AWAY = {1, 4, UNAVAILABLE}
"""Codes of gRPC that say nothing of what was asked: cancelled, too late, no leader."""


class EtcdRefused(NotLetIn):
    """etcd's own answer that it does not do what was asked; `code` is that of gRPC."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"etcd: {said.removeprefix('etcdserver: ')}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Access:
    """Where etcd is and who asks. `ca`, `cert` and `key` are files."""

    endpoints: Sequence[str]
    user: str = ""
    password: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""

    def tls(self) -> ssl.SSLContext | bool:
        """How endpoints with https are spoken to; StoreError when a file cannot be used."""
        if not any(each.startswith("https:") for each in self.endpoints):
            return True
        try:
            context = trusting(self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None, password=no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            names = ", ".join(name for name in (self.ca, self.cert, self.key) if name)
            raise StoreError(f"gateway.etcd: {names} cannot be used: {error}") from None
        return context

    def files(self) -> Sequence[tuple[int, int, int]]:
        """Which files those are; others once a certificate was renewed."""
        found = list[tuple[int, int, int]]()
        for each in filter(None, (self.ca, self.cert, self.key)):
            with suppress(OSError):
                stat = os.stat(each)
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return found


def told(error: BaseException) -> str:
    """What went wrong on the way, in one line: in the system's words, not the library's."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, aiohttp.ClientPayloadError) and error.__cause__ is not None:
        return "the connection broke off"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return (os.strerror(error.errno) if error.errno > 0 else error.strerror or "").lower()
    return " ".join(str(error).split())[:200] or type(error).__name__


class Client:
    """One user's way to etcd. For one event loop; `close` it there."""

    def __init__(self, access: Access, *, within_s: float = WITHIN_S) -> None:
        """`within_s`: how long an answer is waited for where nothing else is said."""
        self._access, self._within_s = access, within_s
        # Three rounds: whoever was asked while a leader was elected has lost what it was asked.
        self._patience_s = min(PATIENCE_S, within_s / 3 / len(access.endpoints))
        self._tasks = Tasks(lambda name, error: None)  # who calls hears of it
        self._files = access.files()
        self._tls = access.tls()
        self._at = random.randrange(len(access.endpoints))  # noqa: S311 -- spreads gateways
        self._token = ""
        self._asking = dict[str, asyncio.Task[None]]()  # for a token, by the member that is asked
        self._is_open = False  # etcd lets in whoever asks
        self._session: aiohttp.ClientSession | None = None
        self._clusters = Clusters()
        self._comparing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Closes every connection."""
        await self._tasks.close()
        if self._session is not None:
            await self._session.close()

    async def compared(self) -> None:
        """Returns when every endpoint that is there has said of which cluster it is. Unavailable
        where they are of several, and none has most of them."""
        await asyncio.shield(self._look_at_all())
        if why := self._clusters.divided():
            raise Unavailable(f"gateway.etcd.endpoints: {why}")

    def _look_at_all(self) -> asyncio.Task[None]:
        if self._comparing is None:
            self._comparing = self._tasks.run("a look at all endpoints", self._compare())
        return self._comparing

    async def _compare(self) -> None:
        async def one(endpoint: str) -> None:
            with suppress(aiohttp.ClientError, TimeoutError, OSError, StoreError):
                async with asyncio.timeout(CONNECT_S):
                    await self._post(endpoint, STATUS, {}, {})

        count = len(self._access.endpoints)
        await asyncio.gather(*(one(self._endpoint(at)) for at in range(count if count > 1 else 0)))

    def _note_cluster(self, endpoint: str, said: Json) -> None:
        """Has what `endpoint` said count only where it is of the cluster that does."""
        cluster = said.get("header", {}).get("cluster_id") if isinstance(said, dict) else None
        if cluster is not None:
            self._clusters.note(endpoint, cluster)

    async def call(self, path: str, body: Json, *, within_s: float | None = None) -> Json:
        """The answer of the first member that has one. Unavailable when none has within that time,
        EtcdRefused when it is a refusal. Who takes long is not given up: it may only be slow, and
        others are asked beside it."""
        end = time.monotonic() + (within_s or self._within_s)
        asked = dict[asyncio.Task[Json], str]()
        tried = 0
        self._look_at_all()
        try:
            while True:
                at, endpoint = self._at, self._endpoint(self._at)
                asked[self._tasks.run("a call", self._ask(endpoint, path, body))] = endpoint
                patience_s = max(0.05, min(self._patience_s, end - time.monotonic()))
                done, _ = await asyncio.wait(
                    asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
                )
                why = f"{endpoint}: no answer in time"
                for each in done:
                    endpoint = asked.pop(each)
                    try:
                        return each.result()
                    except (aiohttp.ClientError, TimeoutError, OSError) as error:
                        why = f"{endpoint}: {told(error)}"
                    except EtcdRefused as refused:
                        if refused.code not in AWAY:
                            raise
                        why = f"{endpoint}: {refused}"
                self.leave(at)
                tried += 1
                if time.monotonic() >= end:
                    raise Unavailable(f"etcd cannot be reached ({why})")
                if done and tried % len(self._access.endpoints) == 0:
                    await asyncio.sleep(PAUSE_S)
        finally:
            for each in asked:
                each.cancel()

    async def stream(self, path: str, body: Json) -> AsyncIterator[Json]:
        """What one member answers, message by message. Unavailable when it breaks off."""
        at = self._at
        endpoint = self._endpoint(at)
        # Without it, a member that is cut off from the others keeps silent and looks well.
        headers = {**await self._headers(endpoint), "Grpc-Metadata-hasleader": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        try:
            async with self._http().post(
                endpoint + path,
                data=orjson.dumps(body),
                headers=headers,
                timeout=timeout,
                ssl=self._tls,
            ) as answer:
                async for line in _lines(answer.content):
                    said = orjson.loads(line)
                    if answer.status != 200 or "error" in said:
                        raise _refusal(said, answer.status)
                    self._note_cluster(endpoint, said["result"])
                    yield said["result"]
        except EtcdRefused as refused:
            if refused.code == UNAUTHENTICATED:
                self._token = ""
            self._is_open = False
            self.leave(at)
            raise Unavailable(f"the watch ended ({endpoint}: {refused})") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.leave(at)
            raise Unavailable(f"the watch broke off ({endpoint}: {told(error)})") from None
        self.leave(at)
        raise Unavailable(f"the watch ended ({endpoint})")

    def _read_again(self) -> None:
        """Uses certificates that were renewed, for connections to come and none that are not in the
        files any more; one that is half written is looked at again."""
        files = self._access.files()
        if files != self._files:
            with suppress(StoreError):
                self._tls, self._files = self._access.tls(), files

    def leave(self, at: int | None = None) -> None:
        """Asks another member from now on, unless that was done since `at` was asked."""
        if at is None or at == self._at:
            self._at += 1

    def _endpoint(self, at: int) -> str:
        return self._access.endpoints[at % len(self._access.endpoints)].rstrip("/")

    def _http(self) -> aiohttp.ClientSession:
        self._read_again()
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def _ask(self, endpoint: str, path: str, body: Json) -> Json:
        if self._clusters.stranger(endpoint):
            await self._post(endpoint, STATUS, {}, {})  # or it might do what is asked
        for is_last in (False, False, True):
            headers = await self._headers(endpoint)
            try:
                return await self._post(endpoint, path, body, headers)
            except EtcdRefused as refused:
                if self._is_open and not is_last and "user name is empty" in str(refused):
                    self._is_open = False  # it asks again
                    continue
                is_old = "auth token" in str(refused) or "revision in header" in str(refused)
                if is_last or not headers or not (refused.code == UNAUTHENTICATED or is_old):
                    raise
                # It has ended, or who may do what was changed; another call may know a new one.
                if headers["Authorization"] == self._token:
                    self._token = ""
        raise AssertionError("the last one returned or raised")

    async def _headers(self, endpoint: str) -> Mapping[str, str]:
        access = self._access
        if not access.user or self._is_open:
            return {}
        while not (self._token or self._is_open):
            # Once for all who wait for it, and on when they do no longer: etcd stands still while
            # it hashes a password, and asked by each of them, it would do nothing else.
            asking = self._asking.get(endpoint)
            if asking is None or asking.done():
                asking = self._tasks.run("a token", self._become_known(endpoint))
                self._asking[endpoint] = asking
            await asyncio.shield(asking)
        return {} if self._is_open else {"Authorization": self._token}

    async def _become_known(self, endpoint: str) -> None:
        access = self._access
        who = {"name": access.user, "password": access.password}
        try:
            async with asyncio.timeout(KNOWN_WITHIN_S):
                said = await self._post(endpoint, "/v3/auth/authenticate", who, {})
        except EtcdRefused as refused:
            if refused.code in AWAY:
                raise
            if refused.code == NOT_ENABLED:  # as every client of etcd's goes on
                log.warning(
                    f"etcd asks nobody for a user: {access.user!r} is not needed, and whoever"
                    " reaches etcd may edit"
                )
                self._is_open = True
                return
            said = str(refused).removeprefix("etcd: ")
            raise EtcdRefused(refused.code, f"user {access.user!r}: {said}") from None
        self._token = said["token"]

    async def _post(self, endpoint: str, path: str, body: Json, headers: Mapping[str, str]) -> Json:
        async with self._http().post(
            endpoint + path, data=orjson.dumps(body), headers=headers, ssl=self._tls
        ) as answer:
            text = await answer.read()
            try:
                said = orjson.loads(text)
            except ValueError:
                # No etcd at all, or one whose JSON gateway is switched off, or says what it minds.
                said = ": " + text.decode(errors="replace").strip()[:200]
                said = said if answer.content_type == "text/plain" else " and no JSON"
                raise aiohttp.ClientPayloadError(f"answers {answer.status}{said}") from None
            if answer.status != 200:
                raise _refusal(said, answer.status)
            self._note_cluster(endpoint, said)
            return said


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    # Its own `readline` refuses lines as long as a large table makes them.
    held: list[bytes] = []
    async for piece in content.iter_any():
        *whole, rest = piece.split(b"\n")
        for line in whole:
            held.append(line)
            joined = b"".join(held)
            held.clear()
            if joined:
                yield joined
        held.append(rest)
    if joined := b"".join(held):
        yield joined


def _refusal(said: Json, status: int) -> EtcdRefused:
    inner = said.get("error") if isinstance(said, dict) else None
    facts = inner if isinstance(inner, dict) else said if isinstance(said, dict) else {}
    code: Json = facts.get("grpc_code", facts.get("code", UNAVAILABLE if status >= 500 else 2))
    text = facts.get("message") or inner or f"status {status}"
    return EtcdRefused(int(code), str(text))


# -- what is asked, in etcd's words


def b64(data: bytes) -> str:
    """Bytes as JSON carries them."""
    return base64.b64encode(data).decode()


def beyond(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def get(key: bytes, end: bytes = b"", **more: Json) -> Json:
    """The operation that reads a key, or all from it up to `end`."""
    asked = {"key": b64(key), **({"range_end": b64(end)} if end else {}), **more}
    return {"request_range": asked}


def put(key: bytes, value: bytes, lease: int = 0) -> Json:
    """The operation that writes `key`, under `lease` if it has one."""
    held = {"lease": str(lease)} if lease else {}
    return {"request_put": {"key": b64(key), "value": b64(value), **held}}


def delete(key: bytes, end: bytes = b"") -> Json:
    """The operation that deletes a key, or all from it up to `end`."""
    asked = {"key": b64(key), **({"range_end": b64(end)} if end else {})}
    return {"request_delete_range": asked}


def unchanged(key: bytes, revision: int) -> Json:
    """Holds while `key` was last written at etcd's `revision`; 0: while there is none."""
    return {
        "key": b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision),
    }  # fmt: skip


def not_since(key: bytes, revision: int) -> Json:
    """Holds while `key` was not written after etcd's `revision`."""
    return {
        "key": b64(key), "target": "MOD", "result": "LESS", "mod_revision": str(revision + 1),
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it was read; `revision` is etcd's when it was last written."""

    key: bytes
    value: bytes
    revision: int
    lease: int = 0


def entry_of(said: Json) -> Entry:
    """The entry in etcd's words."""
    key, value = base64.b64decode(said["key"]), base64.b64decode(said.get("value", ""))
    return Entry(key, value, int(said.get("mod_revision", 0)), int(said.get("lease", 0)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a transaction: whether all comparisons held, etcd's revision, and what each read
    found."""

    succeeded: bool
    revision: int
    found: Sequence[Sequence[Entry]]


async def transact(
    client: Client,
    operations: Sequence[Json],
    *,
    when: Sequence[Json] = (),
    otherwise: Sequence[Json] = (),
    within_s: float | None = None,
) -> Answer:
    """Does all `operations` if `when` holds, else those in `otherwise`: at once and wholly.
    StoreFull where etcd is at its quota."""
    body = {"compare": list(when), "success": list(operations), "failure": list(otherwise)}
    try:
        said = await client.call("/v3/kv/txn", body, within_s=within_s)
    except EtcdRefused as refused:
        if refused.code != EXHAUSTED:
            raise
        raise StoreFull(f"the edit could not be stored: {refused}") from None
    found = [
        [entry_of(each) for each in response["response_range"].get("kvs", ())]
        for response in said.get("responses", ())
        if "response_range" in response
    ]
    return Answer(bool(said.get("succeeded")), int(said["header"]["revision"]), found)


async def grant(client: Client, ttl_s: int, *, within_s: float) -> tuple[int, float]:
    """A new lease: its number, and how long it lasts."""
    said = await client.call("/v3/lease/grant", {"TTL": str(ttl_s)}, within_s=within_s)
    return int(said["ID"]), float(said["TTL"])


async def renew(client: Client, lease: int, *, within_s: float) -> float:
    """How long `lease` lasts from now on; 0 when it has ended."""
    said = await client.call("/v3/lease/keepalive", {"ID": str(lease)}, within_s=within_s)
    if "error" in said:
        raise _refusal(said, 500)
    return float(said["result"].get("TTL", 0))


async def revoke(client: Client, lease: int, *, within_s: float) -> None:
    """Ends `lease`, if it can be done; it ends by itself too."""
    with suppress(StoreError):
        await client.call("/v3/lease/revoke", {"ID": str(lease)}, within_s=within_s)

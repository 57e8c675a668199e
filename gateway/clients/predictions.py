"""How does a program with an event loop ask a model for predictions, through a gateway?

It keeps connections, and nothing else: no cache, no list of models. It retries nothing, as a model
may have seen what it does not answer; the gateway does where that is safe. No redirect is followed,
so that a key goes nowhere but to the gateway. Programs import it from `gateway.client`.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import aiohttp

from gateway.clients.addresses import address_of, bearer
from gateway.clients.errors import ClientError, Refused, TimedOut, Unreachable, refusal, words
from gateway.clients.prediction_forms import (
    ITEMS,
    InOrder,
    Items,
    Progress,
    decoded,
    encoded,
    with_headers,
)
from gateway.processes.trusting import trusting

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 60.0


class AsyncClient:
    """Predictions of the models behind the gateway at `url`, as whoever `key` belongs to.

    `timeout_s` bounds what a call does not bound itself. At https:// the gateway must show a
    certificate that `tls` trusts (see `trust`), by default one that the system does. Connections
    belong to the event loop of the first call, and are kept until `close` or the end of
    `async with`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = address_of(url, "a gateway").url
        self.timeout_s = _positive(timeout_s)
        self._authorization = bearer(key, "a key")
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; what is under way on them fails."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the transports learn of it

    async def predict(
        self,
        path: str,
        value: Any,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Any:
        """The answer of the model at `path` to `value`: JSON decoded, text as str, else bytes.

        `value` goes as JSON, bytes as they are (as `content_type`). The whole takes `timeout_s`
        seconds at most, which the gateway is told, too. Refused when the gateway or the model says
        no, TimedOut when it is too late, Unreachable when nobody is there or the answer breaks off.
        """
        limit_s = self.timeout_s if timeout_s is None else _positive(timeout_s)
        content, sent = self._request(value, content_type)
        sent["X-Request-Timeout"] = repr(limit_s)
        with self._told(limit_s):
            async with asyncio.timeout(limit_s):
                response = await self._asked(path, content, with_headers(sent, headers))
                async with response:
                    answer = await response.read()
        return decoded(answer, response.content_type, response.charset)

    async def stream(
        self,
        path: str,
        value: Any,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The items that the model at `path` makes of `value`, each as it comes.

        Events and lines of JSON are decoded where they are JSON; `[DONE]` ends them. An answer that
        is no stream is one item. `timeout_s` seconds bound each wait for the next item, not
        the whole. It asks when the first item is wanted, raises what `predict` does, and Refused
        when the stream says that it has failed. Its connection ends when the iterator is closed
        (`contextlib.aclosing`).
        """
        limit_s = self.timeout_s if timeout_s is None else _positive(timeout_s)
        content, sent = self._request(value, content_type)
        sent = with_headers({**sent, "Accept": ITEMS}, headers)
        with self._told(limit_s):
            async with asyncio.timeout(limit_s):
                response = await self._asked(path, content, sent)
        try:
            items = Items(response.content_type, response.charset)
            piece = b"-"
            while piece and not items.is_done:
                with self._told(limit_s):
                    async with asyncio.timeout(limit_s):
                        piece = await _next_piece(response.content)
                for item in items.fed(piece):
                    yield item
        finally:
            response.close()

    async def predict_all(
        self,
        path: str,
        values: Iterable[Any],
        *,
        at_once: int = 8,
        progress: Progress | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> list[Any]:
        """The answers to all `values`, in their order; `at_once` of them are asked at a time.

        `progress(done, total)` is called in the loop after each answer; `total` is None where
        `values` has no length. The first failure raises what `predict` does: nothing more is sent,
        and what is under way is given up.
        """
        order = InOrder(values, at_once, progress)

        async def ask_on() -> None:
            while taken := order.take():
                place, value = taken
                answer = await self.predict(
                    path, value, timeout_s=timeout_s, headers=headers, content_type=content_type
                )
                order.answered(place, answer)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(order.at_once):
                    group.create_task(ask_on())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return order.answers

    def _request(self, value: Any, content_type: str | None) -> tuple[bytes, dict[str, str]]:
        content, media_type = encoded(value, content_type)
        sent = {"Content-Type": media_type, "User-Agent": "headgate-client"}
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        return content, sent

    async def _asked(
        self, path: str, content: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The answer, of which nothing but the head is read, and which is to be closed."""
        if not path.startswith("/"):
            raise ValueError(f"a path begins with /: {path!r}")
        session = self._session_here()
        response = await session.post(
            self.url + path, data=io.BytesIO(content), headers=headers, allow_redirects=False
        )
        if response.status < 300:
            return response
        async with response:
            said = await response.read()
        told = response.headers.get
        raise _late_or_refused(refusal(response.status, response.reason or "", told, said))

    def _session_here(self) -> aiohttp.ClientSession:
        """The connections, which belong to the loop that runs."""
        if self._is_closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            trusts = trusting() if self.url.startswith("https:") else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls or trusts),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),
            )
        if loop is not self._loop:
            raise RuntimeError("the client belongs to another event loop: make one in each")
        return self._session

    @contextmanager
    def _told(self, limit_s: float) -> Iterator[None]:
        """Whatever goes wrong with the connection, as an error of the family."""
        try:
            yield
        except ClientError:
            raise
        except TimeoutError:
            raise TimedOut(f"{self.url} has not answered within {limit_s:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            told = words(error.certificate_error)
            raise Unreachable(f"no gateway answers at {self.url}: {told}") from None
        except aiohttp.ClientConnectorError as error:
            told = words(error.os_error)
            raise Unreachable(f"no gateway answers at {self.url}: {told}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self.url} broke off its answer: {words(error)}") from None


async def _next_piece(content: aiohttp.StreamReader) -> bytes:
    """What came next, b"" at the end. A break of the connection is raised once all that came before
    it was given: a stream says there why it ends, and aiohttp would raise at once and drop that."""
    broken = content.exception()
    if broken is None:
        return await content.readany()
    content.set_exception(None)  # type: ignore[arg-type]  # or what is there cannot be read
    piece = content.read_nowait()
    content.set_exception(broken)
    if not piece:
        raise broken
    return piece


def _late_or_refused(error: Refused) -> ClientError:
    """The gateway's own clock says what the client's would have said a moment later."""
    if error.status == 504 and error.code == "deadline":
        return TimedOut(error.detail)
    return error


def _positive(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be more than 0 s, not {timeout_s}")
    return float(timeout_s)

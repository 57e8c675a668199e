"""How does a program without an event loop, or a notebook, ask a model for predictions?

By `AsyncClient` in a thread of its own, whatever loop may run in the caller's: there is one place
that knows how a prediction is asked. What is called back is called in the caller's thread.
Programs import it from `gateway.client`.
"""

import asyncio
import concurrent.futures
import ssl
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from threading import RLock, Thread, current_thread
from typing import Any, Self, TypeVar

from gateway.clients.errors import Unreachable
from gateway.clients.prediction_forms import InOrder, Progress
from gateway.clients.predictions import DEFAULT_TIMEOUT_S, DEFAULT_URL, AsyncClient

T = TypeVar("T")
END = object()


class Client:
    """Predictions of the models behind the gateway at `url`, as whoever `key` belongs to.

    `timeout_s` bounds what a call does not bound itself. At https:// the gateway must show a
    certificate that `tls` trusts (see `trust`), by default one that the system does. Threads may
    share it. Connections are kept until `close`, the end of `with`, or until nobody has it any
    more.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        key: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._asking = AsyncClient(url, key, timeout_s=timeout_s, tls=tls)
        self.url = self._asking.url
        self.timeout_s = self._asking.timeout_s
        self._loop = _Loop(self._asking.close)
        self._end = weakref.finalize(self, self._loop.end)  # at the end of the process as well

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; what is under way on them fails."""
        self._end()

    def predict(
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
        return self._loop.run(
            self._asking.predict(
                path, value, timeout_s=timeout_s, headers=headers, content_type=content_type
            )
        )

    def stream(
        self,
        path: str,
        value: Any,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Generator[Any, None, None]:
        """The items that the model at `path` makes of `value`, each as it comes.

        Events and lines of JSON are decoded where they are JSON; `[DONE]` ends them. An answer that
        is no stream is one item. `timeout_s` seconds bound each wait for the next item, not
        the whole. It asks when the first item is wanted, raises what `predict` does, and Refused
        when the stream says that it has failed. Its connection ends when the iterator is closed
        (its `close`, or nobody having it).
        """
        items = self._asking.stream(
            path, value, timeout_s=timeout_s, headers=headers, content_type=content_type
        )

        turn = asyncio.Lock()  # what was interrupted ends before the rest is closed

        async def following() -> Any:
            async with turn:
                return await anext(items, END)

        async def close() -> None:
            async with turn:
                await items.aclose()

        try:
            while (item := self._loop.run(following())) is not END:
                yield item
        finally:
            self._loop.run_at_last(close())

    def predict_all(
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

        `progress(done, total)` is called after each answer, in the thread of the caller; `total` is
        None where `values` has no length. The first failure raises what `predict` does: nothing
        more is sent, and what is under way is given up.
        """
        order = InOrder(values, at_once, progress)
        under_way: dict[concurrent.futures.Future[Any], int] = {}
        try:
            while True:
                while len(under_way) < order.at_once and (taken := order.take()):
                    place, value = taken
                    asked = self._asking.predict(
                        path, value, timeout_s=timeout_s, headers=headers, content_type=content_type
                    )
                    under_way[self._loop.begin(asked)] = place
                if not under_way:
                    return order.answers
                done, _ = concurrent.futures.wait(
                    under_way, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    order.answered(under_way[future], _result(future))
                    del under_way[future]
        finally:
            for future in under_way:
                future.cancel()


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`last` is run when all else has ended."""
        self._last = last
        self._loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._ended = False
        # What is begun is begun before the end, or not at all. Reentrant: garbage may be
        # collected in between, and a stream that nobody has any more begins to end.
        self._between = RLock()
        self._thread = Thread(target=self._serve, name="headgate-client", daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs it beside whoever called; RuntimeError where nothing runs any more."""
        with self._between:
            if not self._ended and self._thread.is_alive():
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        why = "is closed" if self._ended else "is another process's: make one in each"
        raise RuntimeError(f"the client {why}")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What it returns; it is cancelled when the wait for it is interrupted."""
        future = self.begin(coroutine)
        try:
            return _result(future)
        finally:
            future.cancel()
            del future  # of which an error would know, and it of the error

    def run_at_last(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs it unless all is over, and waits for it unless that is the loop's own thread, in
        which garbage may be collected as in any other."""
        try:
            future = self.begin(coroutine)
        except RuntimeError:
            return
        if current_thread() is not self._thread:
            concurrent.futures.wait([future])

    def end(self) -> None:
        """Cancels what runs, and ends the loop and its thread."""
        with self._between:
            if not self._ended:
                self._ended = True
                self._loop.call_soon_threadsafe(self._is_over.set)
        if current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._to_the_end())
        finally:
            self._loop.close()

    async def _to_the_end(self) -> None:
        await self._is_over.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._last()


def _result(future: concurrent.futures.Future[T]) -> T:
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise Unreachable("the client was closed before the answer came") from None
    finally:
        del future

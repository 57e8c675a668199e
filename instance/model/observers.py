"""Who else is told what a model does: the callbacks and loggers that its class brings.

Callbacks are objects with methods such as `on_before_predict(lit_api)`, called in the worker
around the hooks. Loggers are objects with `process(key, value)`, and get what the model's
`log` says, in a thread of their own. What either raises goes to the log and no further.
What happens outside of the hooks (requests, the server's start) is told elsewhere: `notifier`.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from queue import Full, Queue
from typing import Any

from instance.model.hooks import Hook, Hooks
from instance.specs import spec_of

log = logging.getLogger("instance.model")
MOMENTS = ("setup", "decode_request", "predict", "encode_response")
EVENTS = ("on_server_start", "on_server_end", "on_request", "on_response")
OTHER_HOOKS = ("ContinuousBatchingLoop",)
MAX_ENTRIES = 10_000  # that wait for a slow logger; what is more is dropped
MAX_LINES_PER_S = 20


class Callbacks:
    """The callbacks of one model."""

    def __init__(self, api: Any) -> None:
        self._api = api
        known = [f"on_{when}_{moment}" for moment in MOMENTS for when in ("before", "after")]
        self._all = [
            one
            for one in listed(getattr(api, "callbacks", None))
            if any(callable(getattr(one, name, None)) for name in known)
        ]

    def tell(self, event: str) -> None:
        """Calls `event` of every callback that has it."""
        for one in self._all:
            method = getattr(one, event, None)
            if method is not None:
                try:
                    method(lit_api=self._api)
                except Exception:
                    log.exception("%s of %s raised", event, type(one).__name__)

    def around(self, hooks: Hooks) -> Hooks:
        """`hooks`, telling the callbacks before and after each, also of decoding and encoding that
        the class leaves out; the same where there are none."""
        if not self._all:
            return hooks
        spec = spec_of(self._api)
        decode = hooks.decode or _plainly(_same if spec is None else spec.decoded)
        # The items of a stream that nobody encodes are not taken up to be told of.
        encode = hooks.encode or (None if hooks.stream else _plainly(_same))
        return replace(
            hooks,
            predict=self._observed(hooks.predict, "predict"),
            decode=self._observed(decode, "decode_request"),
            encode=encode and self._observed(encode, "encode_response"),
        )

    def _observed(self, hook: Hook, moment: str) -> Hook:
        """The hook between its two events; a generator's second comes when it is used up."""
        kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
            (False, False): self._plain,
            (True, False): self._awaited,
            (False, True): self._yielding,
            (True, True): self._yielding_async,
        }
        wrap = kinds[hook.is_async, hook.is_generator]
        call, before, after = hook.call, f"on_before_{moment}", f"on_after_{moment}"
        return replace(hook, call=lambda *given, **named: wrap(before, after, call, given, named))

    def _plain(self, before: str, after: str, call: Any, given: Any, named: Any) -> Any:
        self.tell(before)
        result = call(*given, **named)
        self.tell(after)
        return result

    async def _awaited(self, before: str, after: str, call: Any, given: Any, named: Any) -> Any:
        self.tell(before)
        result = await call(*given, **named)
        self.tell(after)
        return result

    def _yielding(
        self, before: str, after: str, call: Any, given: Any, named: Any
    ) -> Iterator[Any]:
        self.tell(before)
        yield from call(*given, **named)
        self.tell(after)

    async def _yielding_async(
        self, before: str, after: str, call: Any, given: Any, named: Any
    ) -> AsyncIterator[Any]:
        self.tell(before)
        items = call(*given, **named)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()
        self.tell(after)


def _same(value: Any) -> Any:
    return value


def _plainly(call: Callable[[Any], Any]) -> Hook:
    """A hook that is no more than `call`."""
    return Hook(call, wants_context=False, is_async=False, is_generator=False)


class Entries:
    """Where the model's `log` puts its pairs: the loggers, or the log where there are none."""

    def __init__(self, api: Any) -> None:
        loggers = listed(getattr(api, "loggers", None))
        self._loggers = [one for one in loggers if callable(getattr(one, "process", None))]
        self._queue: Queue[tuple[Any, Any] | None] = Queue(MAX_ENTRIES)
        self._thread: threading.Thread | None = None
        self._second = self._lines = 0
        for one in self._loggers:
            if (getattr(one, "_config", None) or {}).get("mount"):
                log.warning("the page that %s mounts is not served here", type(one).__name__)
        if self._loggers:
            self._thread = threading.Thread(target=self._run, name="loggers", daemon=True)
            self._thread.start()

    def put(self, entry: tuple[Any, Any]) -> None:
        """Takes one pair; never waits."""
        if self._thread is None:
            self._write(entry)
            return
        try:
            self._queue.put_nowait(entry)
        except Full:
            self._write(("entries are dropped, a logger is too slow", entry[0]))

    def close(self, timeout: float = 1.0) -> None:
        """Waits a moment for what was put to be processed."""
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=timeout)
            except Full:
                return
            self._thread.join(timeout)

    def _write(self, entry: tuple[Any, Any]) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= MAX_LINES_PER_S:
            log.info("%r: %r", *entry)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            for one in self._loggers:
                try:
                    one.process(*entry)
                except BaseException:  # also a sys.exit() deep in it: the others go on
                    log.exception("%s could not process %r", type(one).__name__, entry[0])


def refuse_loops(api: Any) -> None:
    """ValueError when a model brings a way of running its hooks that is not followed here;
    a word in the log for what is only not offered."""
    loop = getattr(api, "_loop", None)
    kind = type(loop)
    # LitServe's own ways come to the same as ours, but for the one that asks for other hooks.
    own = kind.__module__.startswith("litserve.loops.") and kind.__name__ not in OTHER_HOOKS
    if not isinstance(loop, str | None) and hasattr(type(api), "loop") and not own:
        say = f"the model brings a loop ({kind.__name__}), which is not run here"
        raise ValueError(f"{say}; batches, or an async or generator predict, can do its work")
    if getattr(api, "mcp", None) is not None and hasattr(api, "enable_async"):
        log.warning("the model wants to be offered over MCP, which is not done here")


def listed(given: Any) -> list[Any]:
    """The callbacks or loggers of an attribute that may hold one, several or none."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def tells(callbacks: list[Any]) -> bool:
    """Whether any of them wants to know of what happens outside of the hooks."""
    return any(_own(one, event) for one in callbacks for event in EVENTS)


def _own(callback: Any, event: str) -> bool:
    """Whether it is more than the base class's, which does nothing."""
    method = getattr(type(callback), event, None)
    return callable(method) and not getattr(method, "__qualname__", "").startswith("Callback.")

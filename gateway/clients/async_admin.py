"""How does a program with an event loop talk to the admin API of a running gateway?

By the methods of `AdminClient`, each in a thread of its own for as long as it takes: edits are
few, and there is one place that knows how each is asked. It retries nothing. Programs import it
from `gateway.client`.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial, update_wrapper
from threading import Thread
from typing import Any, Concatenate, ParamSpec, TypeVar

from gateway.clients.addresses import DEFAULT_URL
from gateway.clients.admin import AdminClient, events_since
from gateway.clients.admin_connection import EventStream
from gateway.clients.errors import Json

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    method: Callable[Concatenate[AdminClient, P], T],
) -> Callable[Concatenate["AsyncAdminClient", P], Coroutine[Any, Any, T]]:
    """`method`, to be awaited."""

    async def awaited(self: "AsyncAdminClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await _in_a_thread(partial(method, self.blocking, *args, **kwargs))

    update_wrapper(awaited, method)
    return awaited


class AsyncAdminClient:
    """What `AdminClient` asks and tells, awaited: the same methods, answers and errors.

    A call that is cancelled ends at once, and what it sent is not called back: an edit may be made
    all the same. It holds nothing that needs to be closed but a stream of events.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.blocking = AdminClient(url, token, timeout_s=timeout_s, tls=tls)
        self.url = self.blocking.url

    table = _awaited(AdminClient.table)
    status = _awaited(AdminClient.status)
    weights = _awaited(AdminClient.weights)
    backend = _awaited(AdminClient.backend)
    logs = _awaited(AdminClient.logs)
    keys = _awaited(AdminClient.keys)
    key_tag = _awaited(AdminClient.key_tag)
    series = _awaited(AdminClient.series)
    history = _awaited(AdminClient.history)
    revision = _awaited(AdminClient.revision)

    set_weights = _awaited(AdminClient.set_weights)
    apply = _awaited(AdminClient.apply)
    put_route = _awaited(AdminClient.put_route)
    delete_route = _awaited(AdminClient.delete_route)
    patch_backend = _awaited(AdminClient.patch_backend)
    restart_backend = _awaited(AdminClient.restart_backend)
    start_backend = _awaited(AdminClient.start_backend)
    stop_backend = _awaited(AdminClient.stop_backend)
    delete_backend = _awaited(AdminClient.delete_backend)
    instance_action = _awaited(AdminClient.instance_action)
    rollout = _awaited(AdminClient.rollout)
    mirror = _awaited(AdminClient.mirror)
    begin_rollout = _awaited(AdminClient.begin_rollout)
    command_rollout = _awaited(AdminClient.command_rollout)
    forget_rollout = _awaited(AdminClient.forget_rollout)
    create_key = _awaited(AdminClient.create_key)
    key_action = _awaited(AdminClient.key_action)
    delete_key = _awaited(AdminClient.delete_key)
    restore = _awaited(AdminClient.restore)

    async def events(self, *, last_s: int = 0) -> AsyncGenerator[Json, None]:
        """Edits, health and ejections as they happen, until the gateway goes away; before them
        those of the last `last_s` seconds, of which it knows an hour. Its connection ends when the
        iterator is closed (`contextlib.aclosing`) or its task is cancelled."""
        stream = EventStream(self.blocking, events_since(last_s))
        try:
            while (event := await _in_a_thread(partial(next, stream, None))) is not None:
                yield event
        finally:
            stream.close()


async def _in_a_thread(call: Callable[[], T]) -> T:
    """What `call` returns. The thread is no pool's: who is cancelled waits for none, not even at
    the end of the loop, and a process does not for one that hangs."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[Any], None], what: Any) -> None:
        if not answer.done():
            settle(what)

    def run() -> None:
        told: tuple[Callable[[Any], None], Any]
        try:
            told = (answer.set_result, call())
        except BaseException as error:
            told = (answer.set_exception, error)
        try:
            loop.call_soon_threadsafe(tell, *told)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    Thread(target=run, name="headgate-admin", daemon=True).start()
    return await answer

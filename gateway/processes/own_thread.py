"""A call that may hang for as long as it likes, and keeps nobody else from anything.

Not for work: a thread is made for each call, and one that hangs is left alone at the end of the
process.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_own_thread(name: str, call: Callable[[], T]) -> T:
    """The result of `call`, made in a thread of that name."""
    ended = Future[T]()
    ended.set_running_or_notify_cancel()  # whoever gives up waiting cannot end it

    def run() -> None:
        try:
            ended.set_result(call())
        except Exception as error:
            ended.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(ended)

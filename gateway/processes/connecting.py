"""Which of the addresses of one host takes a connection?

They are tried in turn, as everything does that connects to a name: `localhost` is two addresses,
and who listens at one of them need not listen at the other.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def connect_any(
    hosts: Sequence[str], limit_s: float, connect: Callable[[str], Awaitable[T]]
) -> T:
    """What `connect` makes of the first of `hosts` where it succeeds, within `limit_s` seconds.

    Each has an equal part of the time that is left. OSError: that of the first of them, a
    TimeoutError if it kept silent. Who listens and is not trusted (ssl.SSLError) ends the search.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + limit_s
    failed: OSError = TimeoutError()
    for tried, host in enumerate(hosts):
        try:
            async with asyncio.timeout((until - loop.time()) / (len(hosts) - tried)):
                return await connect(host)
        except ssl.SSLError:
            raise
        except OSError as error:
            failed = failed if tried else error
    raise failed

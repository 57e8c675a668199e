"""Was something in time, in one of a few tries?

What a gateway does too late, it does too late each time. A process that gets no processor for half
a second does so now and then, on a machine that has others to serve. So a test that came too late
begins again, and one that was in time is believed at once. For nothing else: an answer that is
wrong is wrong at the first try.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

TRIES = 3


class Late(AssertionError):
    """A moment was missed, and nothing else was wrong."""


def in_time(is_so: bool, *facts: object) -> None:
    """Raises Late where it is not so; `facts` tell what was seen."""
    if not is_so:
        raise Late(*facts)


def one_of_three(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """`test`, begun again where it was late, and late when it was so each time."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        for left in reversed(range(TRIES)):
            try:
                return await test(*args, **kwargs)
            except Late:
                if not left:
                    raise
        return None

    return run

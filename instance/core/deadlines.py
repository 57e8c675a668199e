"""Until when is an answer worth computing?

A client's patience comes as `X-Headgate-Timeout-Ms`, counted from arrival. Deadlines are
monotonic seconds, which all processes of one machine share, so that the model's process can
check them again just before it computes. Reading clocks is the caller's.
"""

from math import inf

HEADER = "X-Headgate-Timeout-Ms"
MAX_TIMEOUT_S = 7 * 24 * 3600.0


def deadline_of(text: str | None, arrived: float) -> float:
    """The moment, in the clock of `arrived`, after which nobody waits; inf without a limit.

    ValueError says what is wrong with a header that is no whole number of milliseconds: a
    deadline that is guessed would drop work somebody waits for.
    """
    if text is None:
        return inf
    if not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise ValueError(f"{HEADER} must be a whole number of milliseconds")
    return arrived + min(int(text) / 1000, MAX_TIMEOUT_S)

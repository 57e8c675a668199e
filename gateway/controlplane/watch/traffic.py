"""How much went through lately, in a line for people?

Now and then, and only when there was something. Pure: the clock is an argument.
"""

from collections.abc import Callable
from dataclasses import dataclass

EVERY_S = 30.0


@dataclass(slots=True)
class Traffic:
    """What was said last: when, and how many requests had been counted and had failed."""

    said_at: float
    requests: int = 0
    failed: int = 0

    def line(self, counted: Callable[[], tuple[int, int]], now: float) -> str | None:
        """The line that is due at `now`; None without one. `counted` gives the requests so far
        and how many of them failed."""
        lasted_s = now - self.said_at
        if lasted_s < EVERY_S:
            return None
        requests, failed = counted()
        more, bad = requests - self.requests, failed - self.failed
        self.said_at, self.requests, self.failed = now, requests, failed
        if more <= 0:
            return None
        wrong = f", {bad} of them failed" if bad > 0 else ", none failed"
        per_s = more / lasted_s
        return (
            f"{more} request{'' if more == 1 else 's'} in {lasted_s:.0f} s ({per_s:.3g}/s){wrong}"
        )

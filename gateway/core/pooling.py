"""For how long may a pooled connection be idle and still carry a request (idle timeout)?

Whoever sends on a connection that the instance is just closing loses that request, so the limit
must be shorter than the instance's own. That is announced (`Keep-Alive: timeout=5`) or shows
in how idle connections end. One that ends early may also mean that the instance recycles a
worker; so a few that are past the limit are watched instead of closed, and when they outlive it
the limit rises again. Nothing here knows connections or a clock.
"""

from typing import Final

MIN_S: Final = 0.1
NEUTRAL_S: Final = 0.02  # what ends sooner after an answer ends for another reason
MARGIN: Final = 0.8  # part of the time after which a connection ended, or was seen to live on
ANNOUNCED_MARGIN_S: Final = 1.0  # what an instance says is true of its own clock and socket
TOGETHER_S: Final = 1.0  # connections that end within this time end for one reason
WATCH: Final = 2.0  # for this many times the limit a connection is watched
SURVIVORS: Final = 3  # so many outlive the limit, and none between ends, before it rises
CONTRADICTED: Final = 3  # early ends in a row, after which an announcement is not believed


class IdleLimit:
    """`limit_s` for one instance, at most `max_s`; all times are seconds."""

    __slots__ = (
        "_before_s", "_configured_s", "_early", "_early_at", "_early_s", "_least_s", "_max_s",
        "_outlived", "limit_s",
    )  # fmt: skip

    def __init__(self, max_s: float) -> None:
        self.limit_s = self._max_s = self._configured_s = max_s
        self._outlived = 0
        self._least_s = 0.0
        self._early = 0
        self._early_at = -1e9
        self._early_s = self._before_s = 0.0

    @property
    def watch_s(self) -> float | None:
        """Until it was idle for so long, a connection past the limit tells something by living
        on; None where the limit is as high as it may be."""
        return WATCH * self.limit_s if 0.0 < self.limit_s < self._max_s else None

    def closed(self, now: float, idled_s: float) -> None:
        """The instance ended a connection that had been idle for `idled_s`.

        Of many that end together the longest idle one counts: an idle limit ends each in its own
        time, and only who goes, or recycles a worker, ends them all.
        """
        if idled_s <= NEUTRAL_S:
            return
        self._outlived = 0
        if now - self._early_at < TOGETHER_S:
            self._early_s = max(self._early_s, idled_s)
        elif idled_s < self.limit_s:
            self._early += 1
            self._early_at, self._early_s, self._before_s = now, idled_s, self.limit_s
        else:
            return
        self.limit_s = min(self._before_s, max(MIN_S, MARGIN * self._early_s))

    def outlived(self, idled_s: float) -> None:
        """A connection is still there after it was idle for `idled_s`, longer than the limit."""
        self._least_s = min(self._least_s, idled_s) if self._outlived else idled_s
        self._outlived += 1
        if self._outlived >= SURVIVORS:
            self._outlived = self._early = 0
            self.limit_s = min(self._max_s, max(self.limit_s, MARGIN * self._least_s))

    def announced(self, idle_s: float) -> None:
        """The instance says for how long it keeps an idle connection. What it says now weighs
        more than one early end, and less than several in a row."""
        said_s = idle_s - ANNOUNCED_MARGIN_S
        self._max_s = min(self._configured_s, said_s)
        is_believed = self._early < CONTRADICTED
        self.limit_s = self._max_s if is_believed else min(self.limit_s, self._max_s)

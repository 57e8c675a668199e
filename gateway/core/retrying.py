"""May a failed attempt be tried again (retry), and when should a refused client come back?

Two questions must both be answered yes before a second attempt: is it safe and wanted
(`may_retry`), and is it paid for (`RetryBudget`). Which instance is tried next is not
decided here.
"""

import math
from typing import Final

from gateway.core.table import Retries

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
REFUSALS: Final = frozenset({503})  # statuses that say the request was not worked on
START_AGAIN_S: Final = 30.0  # after which a model that could not be loaded is tried again


class RetryBudget:
    """Retries cost a token each; requests earn `share` of one, time `per_s` of them.

    What is saved up never exceeds what the last second earned: an outage that follows an
    hour of calm must not begin with an hour's worth of retries.
    """

    __slots__ = ("_at", "_recent", "_tokens", "per_s", "share")

    def __init__(self, share: float = 0.1, per_s: float = 3.0) -> None:
        self.share = share
        self.per_s = per_s
        self._tokens = max(1.0, per_s) if per_s else 0.0
        self._recent = 0.0
        self._at: float | None = None

    def note_request(self, now: float, count: int = 1) -> None:
        """Counts requests (not attempts) that came within the last moment."""
        self._earn(now)
        self._recent += count
        self._tokens += count * self.share

    def can_pay(self, now: float) -> bool:
        """Whether there is enough for a retry; nothing is spent."""
        self._earn(now)
        return self._tokens >= 1.0

    def pay(self) -> None:
        """Spends the price of one retry, for which there was enough just now."""
        self._tokens -= 1.0

    def _earn(self, now: float) -> None:
        at = self._at
        if at is None:
            self._at = now
            return
        passed = now - at
        if passed <= 0.0:
            return
        self._at = now
        # Decays over a second; for the small steps of real traffic 1 - x is as good as e^-x.
        self._recent *= 1.0 - passed if passed < 1.0 else 0.0
        saved = self._tokens + passed * self.per_s
        most = max(1.0, self.per_s + self._recent * self.share)
        self._tokens = saved if saved < most else most


def may_retry(
    retries: Retries,
    method: str,
    reason: str,
    status: int | None,
    has_retry_after: bool,
    attempt: int,
    body_replayable: bool,
    bytes_sent_to_client: bool,
) -> bool:
    """Whether another attempt is safe and the route asks for it; the budget comes after.

    `attempt` counts from 1 and is the one that failed. `reason` is `connect_failure`,
    `reset`, `timeout` or `broken_head`; with a `status` an answer came and the reason is
    not looked at. What the instance may have worked on is tried again only where running
    twice is harmless: idempotent methods (RFC 9110 §9.2.2), or routes marked `retry_safe`.
    `unread` is no failure and needs nobody's leave: the instance ended a connection that it
    took for idle, and read nothing of the request (RFC 9112 §9.3.1).
    """
    if bytes_sent_to_client or not body_replayable:
        return False
    if reason == "unread":
        return True
    if attempt >= retries.attempts:
        return False
    harmless = retries.retry_safe or method in IDEMPOTENT
    if status is None:
        return reason in retries.on and (harmless or reason == "connect_failure")
    if status <= 500 or (status == 503 and has_retry_after):
        return False
    return str(status) in retries.on and (harmless or status in REFUSALS)


def retry_after_s(wait_s: float) -> int:
    """Whole seconds, 1 to 60, after which a request that would wait `wait_s` may do better."""
    if not wait_s < 60.0:
        return 60
    return max(1, math.ceil(wait_s))

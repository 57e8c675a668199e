"""Is there another attempt after one that failed, and at which instance?

Only before any byte went to the client, never at the same instance, inside the same backend
first, and paid from the budget, unless nobody worked on the first one. Whether it is safe and
wanted is the core's `may_retry`.
"""

from typing import TYPE_CHECKING

from gateway.core.retrying import IDEMPOTENT, may_retry
from gateway.dataplane.attempt import Attempt
from gateway.dataplane.instance import LiveInstance

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange


def another(
    exchange: "Exchange",
    attempt: Attempt,
    reason: str,
    status: int | None,
    has_retry_after: bool,
    was_reused: bool,
) -> LiveInstance | None:
    """The instance for the next attempt, which is then paid for; None: there is none."""
    plane, route = exchange.plane, exchange.route
    assert route is not None
    method = exchange.head.method.decode("latin-1")
    if not may_retry(
        route.retries,
        method,
        reason,
        status,
        has_retry_after,
        exchange.attempts,
        exchange.is_replayable,
        exchange.head_sent,
    ):
        return None
    exchange.tried = (*exchange.tried, attempt.instance)
    instance = _next(exchange, plane.now())
    if instance is None and was_reused and method in IDEMPOTENT:
        # The connection was stale, the instance need not be: on a fresh one, once more.
        attempt.instance.close_idle()
        if attempt.instance in attempt.instance.backend.serving:
            instance = attempt.instance
    if instance is None:
        return None
    if not _moves_on(reason, instance) and not plane.may_spend():
        plane.counters.retries_denied += 1
        return None
    if not instance.takes():
        return None
    plane.counters.retried(route.route.name, reason or str(status))
    return instance


def _moves_on(reason: str, instance: LiveInstance) -> bool:
    """Whether a request only goes to where those after it go at once: nobody worked on it, for
    no connection was to be had or its instance said that it takes nothing, and the next one is
    not known to do the same. That is no load that grows with failures, for which the budget is,
    but what was under way; when all turn away, each of them is soon known to."""
    return reason == "connect_failure" and not instance.refused


def _next(exchange: "Exchange", now: float) -> LiveInstance | None:
    """An untried instance with room: of the same backend, else of the one that the route says
    takes over."""
    route, backend = exchange.route, exchange.backend
    assert route is not None
    assert backend is not None
    instance = backend.other(exchange.tried, now)
    if instance is not None:
        return instance
    other = route.after(backend, exchange.head)
    if other is None:
        return None
    instance = other.other(exchange.tried, now)
    if instance is not None:
        exchange.backend = other
    return instance

"""Is there another attempt after one that failed, and at which instance?

Only before any byte of an answer went to the client, never at the same instance, inside the same
backend first, and paid from the budget, unless nobody worked on the first one. Whether it is safe
and wanted is the core's `may_retry`.
"""

from typing import Final, NamedTuple

from gateway.core.heads import RequestHead
from gateway.core.retrying import IDEMPOTENT
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.live_route import LiveRoute
from gateway.dataplane.shared import Shared
from gateway.telemetry.metrics import RETRIES, RETRIES_DENIED

_COUNTED: Final = {"unread": "reset"}  # in the metrics: to its client the connection was reset


class Failure(NamedTuple):
    """What failed: a request of `route`, at an instance of `backend` after those that were `tried`
    before. Why: a `reason` of `Receiver.broke` or `connect_failure`, or "" for the `status` of an
    answer. `is_ours`: we lack what a connection takes."""

    route: LiveRoute
    backend: LiveBackend
    head: RequestHead
    tried: tuple[LiveInstance, ...]
    instance: LiveInstance
    reason: str
    status: int | None = None
    was_reused: bool = False
    is_ours: bool = False


class Next(NamedTuple):
    """Where a request goes next; `is_same`: that is the same attempt, on a new connection."""

    backend: LiveBackend
    instance: LiveInstance
    is_same: bool = False


def next_instance(shared: Shared, failure: Failure) -> Next | None:
    """Where the request goes, which is then paid for; None: nowhere."""
    failed, name = failure.instance, failure.route.route.name
    if failure.reason == "unread":
        # Only the connection was old. On a new one it is the same attempt, at its own instance.
        failed.pool.close_idle()
        if failed in failure.backend.serving and failed.takes():
            shared.counters.add(RETRIES, name, _COUNTED[failure.reason])
            return Next(failure.backend, failed, is_same=True)
    found = _with_room(shared, failure)
    if found is not None:
        reason = _COUNTED.get(failure.reason, failure.reason) or str(failure.status)
        shared.counters.add(RETRIES, name, reason)
    return found


def _with_room(shared: Shared, failure: Failure) -> Next | None:
    """The instance that takes the request, which is then paid for; None: nobody can, or the
    budget is empty. Only who is sent somewhere pays: while there is no room nothing is spent."""
    failed = failure.instance
    passed = (*failure.tried, failed)
    may_repeat = failure.was_reused and failure.head.method.decode("latin-1") in IDEMPOTENT
    while True:
        found = _not_passed(failure, passed, shared.now())
        if found is None and may_repeat:
            # The connection was stale, the instance need not be: on a fresh one, once more.
            failed.pool.close_idle()
            if failed in failure.backend.serving:
                found = Next(failure.backend, failed)
            may_repeat = False
        if found is None:
            return None
        is_free = _moves_on(failure, found.instance)
        if not is_free and not shared.can_pay():
            shared.counters.add(RETRIES_DENIED)
            return None
        if found.instance.takes():
            if not is_free:
                shared.budget.pay()
            return found
        passed = (*passed, found.instance)


def _moves_on(failure: Failure, instance: LiveInstance) -> bool:
    """Whether a request only goes to where those after it go at once: nobody worked on it, for
    no connection was to be had or its instance said that it takes nothing, and the next one is
    not known to do the same. That is no load that grows with failures, for which the budget is,
    but what was under way; when all turn away, each of them is soon known to."""
    nowhere = failure.reason in ("connect_failure", "unread") and not failure.is_ours
    return nowhere and not instance.health.is_away


def _not_passed(failure: Failure, passed: tuple[LiveInstance, ...], now: float) -> Next | None:
    """An instance with room that was not `passed`: of the same backend, else of the one that the
    route says takes over."""
    instance = failure.backend.other(passed, now)
    if instance is not None:
        return Next(failure.backend, instance)
    other = failure.route.after(failure.backend, failure.head)
    instance = other.other(passed, now) if other is not None else None
    return Next(other, instance) if other is not None and instance is not None else None

"""How is a finished request written to the books?

One place, called exactly once per request. What is counted here is what the client saw.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange


def settle(exchange: "Exchange", now: float, reason: str) -> None:
    """Books `exchange`, which ended at `now`; `reason` is "" when nothing went wrong."""
    route, attempt, head = exchange.route, exchange.attempt, exchange.head
    started = exchange.started
    first_s = own_s = 0.0
    if route is not None and attempt is not None:
        cell = route.cell(attempt.instance)
        if exchange.first_at:
            first_s = exchange.first_at - started
            own_s = attempt.sent_at - exchange.ready_at
    else:
        name = route.route.name if route is not None else ""
        backend = exchange.backend.name if exchange.backend is not None else ""
        cell = exchange.plane.counters.cell(name, backend, "")
    entry = (
        now, exchange.ident, exchange.client.peer, head.method, head.target, exchange.status,
        reason, cell.labels, exchange.revision, exchange.attempts, exchange.received,
        exchange.sent, now - started,
    )  # fmt: skip
    exchange.plane.ledger.add((cell, entry, first_s, own_s))

"""How is a finished request written to the books?

One place, called exactly once per request: counters, histograms, the access log. What is
counted here is what the client saw.
"""

from typing import TYPE_CHECKING

from gateway.telemetry.access_log import Entry

if TYPE_CHECKING:
    from gateway.dataplane.exchange import Exchange


def settle(exchange: "Exchange", now: float, reason: str) -> None:
    """Counts `exchange`, which ended at `now`; `reason` is "" when nothing went wrong."""
    plane, route, attempt = exchange.plane, exchange.route, exchange.attempt
    if route is not None and attempt is not None:
        cell = route.cell(attempt.instance)
        times = cell.times
        times.request.observe(now - exchange.started)
        if exchange.first_at:
            times.first_byte.observe(exchange.first_at - exchange.started)
            if attempt.sent_at:
                times.overhead.observe(attempt.sent_at - exchange.ready_at)
    else:
        name = route.route.name if route is not None else ""
        backend = exchange.backend.name if exchange.backend is not None else ""
        cell = plane.counters.cell(name, backend, "")
    head = exchange.head
    cell.count(head.method, exchange.status, reason)
    if plane.log.is_on:
        labels = cell.labels
        plane.log.note(
            Entry(
                now,
                exchange.ident,
                exchange.client.address,
                head.method,
                head.target,
                exchange.status,
                reason,
                labels[0],
                labels[1],
                labels[2],
                exchange.revision,
                exchange.attempts,
                exchange.received,
                exchange.sent,
                now - exchange.started,
            )
        )

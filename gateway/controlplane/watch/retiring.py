"""Which series are of what has been gone for long, and as what are they counted together?

Routes, backends and instances that come and go must not make scrapes longer and longer. What is
gone is counted as another name each time: to Prometheus that is a series that ends and one that
begins with all that there was, and so no increase. Pure: the clock is an argument.
"""

from collections.abc import Callable, Container, Iterable

from gateway.telemetry.catalogue import Gone, stands_for_many
from gateway.telemetry.series import Labels

GONE_S = 600.0
"""How long after its end a route, backend or instance has series of its own: longer than any
scrape interval."""

RETIRED = "retired-"


class Retiring:
    """What is counted and gone, and since when."""

    def __init__(self) -> None:
        self._gone_at: dict[Gone, float] = {}

    def due(
        self, counted: set[Gone], is_here: Callable[[Gone], bool], now: float
    ) -> tuple[list[Gone], str]:
        """What of `counted` is to be counted together from now on, and under which name; mostly
        nothing."""
        names = {key for key in counted if not stands_for_many(key[0], key[-1])}
        gone = {key for key in names if not is_here(key)}
        self._gone_at = {key: self._gone_at.get(key, now) for key in gone}
        due = {key for key, since in self._gone_at.items() if now - since >= GONE_S}
        if not due:
            return [], ""
        before = counted - names
        number = 1 + max(
            (int(key[-1].strip("()").removeprefix(RETIRED)) for key in before), default=0
        )
        kinds = {key[:-1] for key in due}
        return sorted(due | {key for key in before if key[:-1] in kinds}), f"{RETIRED}{number}"


def consumers_gone(consumed: Iterable[Labels], here: Container[str]) -> set[Gone]:
    """The consumers whose requests were `consumed` and that are not `here`: mostly nobody, so that
    ten thousand who are cost little."""
    return {("consumer", labels[0]) for labels in consumed if labels[0] not in here}


def places_of(requests: Iterable[Labels]) -> set[Gone]:
    """The routes, backends and instances at which `requests` were counted; an instance of a
    backend that stands for many goes with it."""
    counted: set[Gone] = set()
    for route, backend, instance in requests:
        if route:
            counted.add(("route", route))
        if backend:
            counted.add(("backend", backend))
            if instance and not stands_for_many("backend", backend):
                counted.add(("instance", backend, instance))
    return counted

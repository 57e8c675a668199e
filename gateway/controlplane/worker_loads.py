"""What one worker says is live in it, and what all of them say together.

Values as the workers last said them (`gateway.wire.messages.Observed`); who asks, and who may be
believed, is decided elsewhere.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from gateway.wire.messages import LoadReport, Observed

log = logging.getLogger(__name__)
T = TypeVar("T")
ByAddress = Mapping[str, Mapping[str, T]]
"""By backend, then by address."""


class WorkerLoad:
    """What is live in one worker."""

    __slots__ = ("in_flight", "limits", "queue_depth", "reports")

    def __init__(self) -> None:
        self.in_flight: ByAddress[int] = {}
        self.limits: ByAddress[int] = {}
        self.queue_depth: Mapping[str, int] = {}
        self.reports: ByAddress[LoadReport] = {}

    def take(self, message: Observed) -> None:
        """Takes in the differences that the worker told."""
        self.in_flight = _merged(self.in_flight, message["in_flight"])
        self.limits = _merged(self.limits, message["limits"])
        self.reports = _merged(self.reports, message["reports"])
        self.queue_depth = {**self.queue_depth, **message["queue_depth"]}


class WorkerLoads:
    """What is live in all workers that are connected, each by the id of its process."""

    def __init__(self) -> None:
        self._loads: dict[int, WorkerLoad] = {}

    def begin(self, pid: int) -> None:
        """The worker has said nothing yet."""
        self._loads[pid] = WorkerLoad()

    def drop(self, pid: int) -> None:
        del self._loads[pid]

    def take(self, pid: int, message: Observed) -> None:
        """Takes in what the worker told, and logs which instances are held to a limit."""
        before = self.limits() if message["limits"] else {}
        self._loads[pid].take(message)
        if message["limits"]:
            _log_limits(before, self.limits())

    def in_flight(self) -> dict[str, dict[str, int]]:
        """Backend → address → requests there, of all workers."""
        sums: dict[str, Counter[str]] = {}
        for load in self._loads.values():
            for backend, addresses in load.in_flight.items():
                sums.setdefault(backend, Counter()).update(addresses)
        return {backend: dict(counts) for backend, counts in sums.items()}

    def limits(self) -> dict[str, dict[str, int]]:
        """Backend → address → the concurrency limit that was learned, where one holds now."""
        found: dict[str, dict[str, int]] = {}
        for load in self._loads.values():
            for backend, addresses in load.limits.items():
                found.setdefault(backend, {}).update(addresses)
        return found

    def queue_depth(self) -> dict[str, int]:
        """Backend → requests that wait for it, in all workers."""
        sums: Counter[str] = Counter()
        for load in self._loads.values():
            sums.update(load.queue_depth)
        return dict(sums)

    def report(self, backend: str, address: str) -> LoadReport | None:
        """What the instance last said of its load; None where no worker knows."""
        reports = (load.reports.get(backend, {}).get(address) for load in self._loads.values())
        return next((report for report in reports if report), None)


def _log_limits(before: ByAddress[int], now: ByAddress[int]) -> None:
    """One line for each instance that is held to a limit from now on, or no more."""
    for backend in before.keys() | now.keys():
        old, new = before.get(backend, {}), now.get(backend, {})
        for address in new.keys() - old.keys():
            facts = {"backend": backend, "instance": address, "limit": new[address]}
            log.warning(
                "concurrency limit: more requests than this were seen to wait at the instance",
                extra={"facts": facts},
            )
        for address in old.keys() - new.keys():
            facts = {"backend": backend, "instance": address}
            log.info("concurrency limit no more", extra={"facts": facts})


def _merged(known: ByAddress[T], news: ByAddress[T | None]) -> ByAddress[T]:
    """`known` with the differences in `news`: what is 0 or None now is not there any more."""
    if not news:
        return known
    merged = dict(known)
    for backend, values in news.items():
        both = {**known.get(backend, {}), **values}
        merged[backend] = {address: value for address, value in both.items() if value}
    return {backend: values for backend, values in merged.items() if values}

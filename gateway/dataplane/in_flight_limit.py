"""How many requests may an instance of a backend have at a time (a bulkhead)?

The configured number (`max_in_flight`) is for all workers together: this one has its part of it,
or takes a permit for each request.
"""

from typing import Final

from gateway.core.evidence import Evidence
from gateway.core.table import Backend
from gateway.dataplane.availability import Availability
from gateway.dataplane.permits import is_few
from gateway.dataplane.shared import Shared

AGAIN_S: Final = 0.001  # between two looks for a permit that another worker may have given back


class WithinLimit(Availability):
    """The instances of one backend, each with no more requests than it may have."""

    __slots__ = ("_is_looking",)

    def __init__(self, shared: Shared, config: Backend, evidence: Evidence) -> None:
        super().__init__(shared, config, evidence)
        self._is_looking = False
        self.limit(config)

    def limit(self, config: Backend) -> None:
        """Takes an edit of the limit. A large one is shared out, for connections are dealt out
        evenly; a few requests are counted, each by a permit."""
        limit, workers = config.max_in_flight, self.shared.options.workers
        self.is_counted = is_few(limit, workers)
        self.max_in_flight = limit if self.is_counted else limit // workers

    def look_again(self) -> None:
        """Looks for permits again in a moment: another worker has them all, and gives no sign
        when it gives one back."""
        if not self._is_looking:
            self._is_looking = True
            self.shared.later(AGAIN_S, self._look)

    def _look(self) -> None:
        self._is_looking = False
        for each in self.instances.values():
            each.load.limit = self.max_in_flight
        self.wake()
        for each in self.instances.values():
            if each.permits is not None and each.permits.is_next:
                if self.waiting:
                    self.look_again()
                else:
                    each.permits.resign()

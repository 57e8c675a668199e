"""The live side of one configured backend: it takes edits, and is met as they say.

Who of it serves is in `availability`, how many requests each may have in `in_flight_limit`, and
who waits for them in `queue`.
"""

from gateway.core.evidence import Evidence
from gateway.core.headers import timeout_line
from gateway.core.table import Backend
from gateway.dataplane.meeting import Meeting
from gateway.dataplane.queue import Queue
from gateway.dataplane.shared import Shared


class LiveBackend(Queue):
    """One backend, and what is known and done here of its instances and who waits for them."""

    __slots__ = ()

    def __init__(self, shared: Shared, config: Backend, evidence: Evidence) -> None:
        super().__init__(shared, config, evidence)
        self.met = Meeting(shared, config.name)
        self._be_met(config)

    def configure(self, config: Backend) -> None:
        """Takes an edit; what did not change goes on as it was."""
        if config.queue != self.config.queue:
            self.admission = self._admission(config)
            self.admission.waits(len(self.waiting))
        self.limit(config)
        self.config = config
        self._be_met(config)

    def _be_met(self, config: Backend) -> None:
        """Takes an edit of how its instances are met."""
        self.met.configure(config, self._met_anew)
        self.timeout_line = timeout_line(config.timeouts.response_s) + self.met.lines

    def _met_anew(self) -> None:
        """Takes what was read from its files: connections that were made by the ones before are not
        used again."""
        self.met.take()
        self.timeout_line = timeout_line(self.config.timeouts.response_s) + self.met.lines
        for each in self.instances.values():
            each.pool.renew()

    def leave(self) -> None:
        """Lets go of what all workers share, as the backend was removed."""
        self.met.leave()
        self.shared.load_memory.leave(self.name)

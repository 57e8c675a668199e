"""What do subscribers to events hear of health, ejections, workers and shares?"""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import is_not
from typing import Any

from gateway.controlplane.events import Events
from gateway.controlplane.watch.effective import Shares
from gateway.controlplane.watch.health_book import Key, Words
from gateway.controlplane.watch.pacing import Paced
from gateway.core.health import Word

log = logging.getLogger(__name__)


class Announcer:
    """Tells `events`. `causes` says why an instance is not well, `effective_shares` what each
    backend of a route gets now: the same object while nothing changed."""

    def __init__(
        self,
        events: Events,
        causes: Mapping[Key, str],
        effective_shares: Callable[[], Mapping[str, Shares]],
    ) -> None:
        self._events, self._causes, self._shares = events, causes, effective_shares
        self._announced: Mapping[str, Shares] = {}
        self._announce = Paced(self.announce_shares)

    def note_health(self, _words: Words, changes: Sequence[tuple[Key, Word, Word]]) -> None:
        """Tells subscribers which instances changed, and which routes that moves."""
        for key, before, after in changes:
            cause = self._causes.get(key)
            why = f": {cause}" if cause else ""
            log.info(f"instance {key.address} of {key.backend}: {before}, now {after}{why}")
            self._events.publish(
                {
                    "type": "health",
                    "backend": key.backend,
                    "instance": key.address,
                    "from": before,
                    "to": after,
                    **({"cause": cause} if cause else {}),
                }
            )
        self._announce()

    def note_ejections(self, ejections: Sequence[Sequence[Any]]) -> None:
        """Tells subscribers who was ejected, for how long, or came back (0 seconds)."""
        for backend, address, seconds, times in ejections:
            what = f"ejected for {seconds:.1f} s" if seconds else "no longer ejected"
            log.info(f"instance {address} of {backend}: {what}")
            self._events.publish(
                {
                    "type": "ejection",
                    "backend": backend,
                    "instance": address,
                    "ejected_s": seconds,
                    "times": times,
                }
            )
        self._announce()

    def note_worker(self, what: str, slot: int, pid: int) -> None:
        """Tells subscribers that a worker `joined` or was `lost`."""
        self._events.publish({"type": "worker", "what": what, "slot": slot, "pid": pid})

    def announce_shares(self) -> None:
        """Tells subscribers the effective shares of each route for which they changed."""
        now = self._shares()
        if now is self._announced:
            return
        # All in C: of twenty thousand routes most have the shares that they had.
        differ = map(is_not, map(self._announced.get, now), now.values())
        for route, share in compress(now.items(), differ):
            if self._announced.get(route, share) != share:
                self._events.publish({"type": "effective", "route": route, "effective": share})
        self._announced = now

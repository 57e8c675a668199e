"""For what do instances wait that have no place in a cluster?

Who is late is looked at beside what the cluster has, and each shortage is said once.
"""

import asyncio
from collections.abc import Callable, Sequence

from gateway.core import cluster
from gateway.up.desired import Desired
from gateway.up.on_ray.held import Held
from gateway.up.on_ray.words import Room

LATE_S = 3.0
"""How long one may be without a place before that is said."""
LONG_S = 20.0
"""And where it may have one, but no process there yet."""


class Shortages:
    """What is short of what is `desired`; `room` says what the cluster has, and `say` is told."""

    def __init__(
        self,
        room: Callable[[], Room],
        desired: Desired,
        clock: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        self._room, self._desired, self._clock, self._say = room, desired, clock, say
        self.waits: dict[str, str] = {}
        """Backend → for what it waits."""

    async def look(self, held: Sequence[Held]) -> None:
        """Looks at those that are late."""
        late = [
            each for each in held
            if each.seen.state in ("waiting", "away") and each.state == "starting"
            and self._clock() - each.since > LATE_S
        ]  # fmt: skip
        room = await asyncio.to_thread(self._room) if late else None
        found = {}
        for each in late:
            name = each.seat.backend
            if room is not None and name in self._desired.specs:
                asked = cluster.needs(self._desired.specs[name]["serve"])
                words, is_sure = cluster.shortage(
                    name, asked, room.total, room.free, room.hosts, self._taken(held)
                )
                if words and (is_sure or self._clock() - each.since > LONG_S):
                    found[name] = words
        for name in found.keys() - self.waits.keys():
            self._say(found[name])
        self.waits = found

    def _taken(self, held: Sequence[Held]) -> dict[str, float]:
        """What those have that run, and are of the version that is asked for."""
        specs = self._desired.specs
        run = [each.seat.backend for each in held if each.seen.state == "there"]
        return cluster.taken(cluster.needs(specs[name]["serve"]) for name in run if name in specs)

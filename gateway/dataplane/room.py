"""Is there room for one client more, and who makes it (the connection limit)?

The limit on connections: a worker has as many clients as its descriptors allow. Once they are
there, whoever has asked nothing for longest, or has not come to the end of what it asks, makes room
for one who comes: who opens connections and says nothing, or little, keeps nobody out. Whoever
asked a moment ago may be about to ask again, and keeps its place.
"""

import math
from collections import deque
from operator import itemgetter
from typing import Final

from gateway.dataplane.connection import Connection

REST_S: Final = 1.0
LOOK_S: Final = 0.25  # from one look through all clients to the next: there may be many


class Room:
    """For `most` clients at a time; `clients` are those there are."""

    __slots__ = ("_clients", "_looked", "_resting", "most")

    def __init__(self, clients: set[Connection]) -> None:
        self.most = math.inf
        self._clients = clients
        self._resting: deque[tuple[float, Connection]] = deque()
        self._looked = -math.inf

    def left(self, now: float) -> float:
        """For how many clients more there is room; for one at least, if another can make it."""
        left = self.most - len(self._clients)
        if left >= 1.0 or not self._end_one(now):
            return left
        return left + 1.0

    def _end_one(self, now: float) -> bool:
        """Whether the one that has rested longest has gone."""
        if not self._resting and now - self._looked >= LOOK_S:
            self._looked = now
            found = [(each.resting_since(), each) for each in self._clients]
            found = [(since, each) for since, each in found if since <= now - REST_S]
            self._resting.extend(sorted(found, key=itemgetter(0)))
        while self._resting:
            since, client = self._resting.popleft()
            if client.resting_since() == since and client.make_room():
                self._clients.discard(client)
                return True
        return False

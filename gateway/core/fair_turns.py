"""In which order do those wait who share a queue, when each of them has a name?

Turns go round between names: whoever has one request in the queue does not wait behind a hundred
of somebody else. Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with requests of
one size: a request gets the number of its round, and lower numbers go first. Where all have the
same name, or none, that is the order in which they came.

Workers have a queue each. A name that has not the most waiting is *next* once somebody had a turn,
here or elsewhere, since its own last. An instance may have one request more than it computes, so
that it goes on at once. While several names want it, that place ahead belongs to who is next. Of
the others it gets no more than it computes, and so who is next waits for one to end, whatever
worker it asked. One that computes batches may have the next batch ahead, or it would begin that
with the first request that comes; then one place in it belongs to who is next.
"""

from typing import Final

AHEAD: Final = 1
CONTESTED_S: Final = 1.0  # after somebody was next, for which the place is kept free
SHORT_S: Final = 0.01  # what takes less: to be without work between two would cost too much of it


class FairTurns:
    """The rounds of one queue; `served` counts the turns that were had in it. What was had in the
    queues of others, `elsewhere`, is for the caller to know."""

    __slots__ = ("_last", "_round", "_seen", "served")

    def __init__(self) -> None:
        self.served = 0
        self._round = 0.0
        self._last: dict[str, float] = {}
        self._seen: dict[str, float] = {}  # how many turns had been had after a name's own last

    def turn(self, name: str, is_next: bool) -> float:
        """The round of one more request of `name`: the one that is on where it `is_next`, else one
        after its last, and none that is over."""
        last = self._last.get(name, 0.0)
        self._last[name] = one_after = max(self._round, last) + 1.0
        if is_next and self._seen.pop(name, None) is not None:
            return self._round
        return one_after

    def is_next(self, name: str, has_most: bool, elsewhere: float) -> bool:
        """Whether `name`, which has not the most waiting, has seen somebody have a turn since its
        own last. A worker that was replaced counts anew: fewer turns than then are others, too."""
        return not has_most and self._seen.get(name, -1.0) != elsewhere + self.served

    def gone(self, name: str, turn: float, elsewhere: float) -> None:
        """A request of `name` and this round has left the queue to be served."""
        self.served += 1
        self._round = max(self._round, turn - 1.0)
        self._seen[name] = elsewhere + self.served

    def emptied(self) -> None:
        """Nobody waits here any more: rounds begin anew."""
        self._round = 0.0
        self._last.clear()

    def forget(self) -> None:
        """Nobody waits anywhere: all is forgotten."""
        self._seen.clear()


def ahead(
    is_next: bool, is_contested: bool, service_s: float, batch: int = 1, usual: int = 0
) -> int | None:
    """How many more than it computes an instance may have, for a request of somebody to be sent
    there: of who `is_next`, or of one of many, while the place `is_contested`. None: as many as for
    requests without a name. Requests take `service_s`; 0.0 while nobody knows. An instance computes
    a `batch` together, and has `usual` requests without a name ahead."""
    if is_next:
        return batch if batch > 1 else AHEAD
    if not is_contested or service_s < SHORT_S:
        return None
    return min(usual, batch - 1)

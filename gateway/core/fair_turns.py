"""In which order do those wait who share a queue, when each of them has a name?

Turns go round between names: whoever has one request in the queue does not wait behind a hundred
of somebody else. Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with requests of
one size: a request gets the number of its round, and lower numbers go first. Where all have the
same name, or none, that is the order in which they came.
"""


class FairTurns:
    """The rounds of one queue."""

    __slots__ = ("_last", "_round")

    def __init__(self) -> None:
        self._round = 0.0
        self._last: dict[str, float] = {}

    def turn(self, name: str) -> float:
        """The round of the next request of `name`: one after its last, and none that is over."""
        turn = self._last[name] = max(self._round, self._last.get(name, 0.0)) + 1.0
        return turn

    def gone(self, turn: float) -> None:
        """A request of this round has left the queue to be served."""
        self._round = max(self._round, turn - 1.0)

    def emptied(self) -> None:
        """Nobody waits any more: what was is forgotten."""
        self._round = 0.0
        self._last.clear()

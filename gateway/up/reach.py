"""Can a cluster be reached, and if not, since when?

It cannot once it has not answered for a while: whoever asks may wait for as long as its head is
away, so that silence is all there is to see. Pure: when what happened is told, and nothing is done.
"""

AWAY_S = 5.0
"""So long no answer is no news: a busy cluster takes its time."""


class Reach:
    """What is known of it, in seconds of one clock; `now` is when it was reached first."""

    def __init__(self, now: float) -> None:
        self._answered = now

    def note(self, now: float) -> None:
        """Notes that the cluster has answered."""
        self._answered = now

    def away_since(self, now: float) -> float | None:
        """When it answered last, where that is too long ago; None while it can be reached."""
        return self._answered if now - self._answered >= AWAY_S else None

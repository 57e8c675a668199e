"""How many replicas shall a backend have, by how long requests wait (autoscaling)?

One more as soon as a new request would have waited too long for a moment, one fewer after a long
quiet, so that a wave is met at once and a lull costs nobody a cold start. Pure: the time and what
was seen are arguments, and what has to be remembered is a value.
"""

from dataclasses import dataclass

OVER_S = 2.0
"""For how long requests have to wait too long: a burst that is worked off is none of it."""

QUIET_S = 600.0
ROOM = 0.5
"""It is quiet while the others would be busy to this part of what they can compute at once."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From `least` to `most` replicas, so that nobody waits longer than `wait_s`."""

    least: int
    most: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """How it is now: `count` replicas are asked for, the next request would wait for `wait_s`,
    `busy` are there, and all replicas together compute `slots` at once (0: nobody says)."""

    count: int
    wait_s: float
    busy: int
    slots: float


@dataclass(frozen=True, slots=True)
class Since:
    """Since when it has been over the limit, and since when quiet, in monotonic seconds."""

    over: float | None = None
    quiet: float | None = None


def scaled(scale: Scale, since: Since, seen: Seen, now: float) -> tuple[int, Since]:
    """How many replicas there shall be, and what to remember."""
    within = min(max(seen.count, scale.least), scale.most)
    if within != seen.count:
        return within, Since()
    over = (since.over if since.over is not None else now) if seen.wait_s > scale.wait_s else None
    quiet = (since.quiet if since.quiet is not None else now) if _is_quiet(seen) else None
    if over is not None and now - over >= OVER_S and seen.count < scale.most:
        return seen.count + 1, Since()
    if quiet is not None and now - quiet >= QUIET_S and seen.count > scale.least:
        return seen.count - 1, Since()
    return seen.count, Since(over, quiet)


def _is_quiet(seen: Seen) -> bool:
    """Whether one fewer would have had room for all that is there."""
    left = seen.slots * (seen.count - 1) / seen.count
    return seen.wait_s == 0.0 and seen.busy <= ROOM * left

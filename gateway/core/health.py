"""Which instances of a backend may get requests?

Two kinds of evidence, kept apart. Probes (`Probed`) are asked of every instance by the
control process and give a word; traffic (`Ejection`) is judged by the worker that sees it.
`serving` brings both together and fails open. Nothing here knows time or connections: what
happened and when are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gateway.core.table import Eject, Health

Word = Literal["starting", "up", "failing", "down"]
ProbeSignal = Literal["ready", "unready", "unreachable"]

PROBE: dict[tuple[Word, ProbeSignal], Word] = {
    ("starting", "ready"): "up",
    ("starting", "unreachable"): "down",
    ("up", "unready"): "failing",
    ("up", "unreachable"): "down",
    ("failing", "ready"): "up",
    ("failing", "unreachable"): "down",
    ("down", "ready"): "up",
    ("down", "unready"): "starting",
}
"""Where enough signals in a row lead; a missing pair changes nothing.

An instance that could not be connected to and now says "not ready" is a new process that
loads its model: it is starting, and gets nothing until it is ready.
"""

AT_ONCE = frozenset({("down", "unready")})  # neither word gets requests: nothing to weigh


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes of one instance say, and how many in a row said otherwise."""

    word: Word = "starting"
    good: int = 0
    bad: int = 0
    refused: bool = False

    def after(self, signal: ProbeSignal, health: Health) -> "Probed":
        """The state once `signal` came: `rise` good ones or `fall` bad ones in a row tell.

        One that was refused a connection since it was last ready, and then says "not ready",
        needs no counting: that is a new process at the old address, loading its model.
        """
        if signal == "unready" and self.refused and self.word != "starting":
            return Probed("starting")
        good = self.good + 1 if signal == "ready" else 0
        bad = 0 if signal == "ready" else self.bad + 1
        target = PROBE.get((self.word, signal))
        enough = good >= health.rise or bad >= health.fall or (self.word, signal) in AT_ONCE
        if target is not None and enough:
            return Probed(target)
        refused = signal != "ready" and (self.refused or signal == "unreachable")
        return Probed(self.word, min(good, health.rise), min(bad, health.fall), refused)

    def was_refused(self) -> "Probed":
        """The state once somebody else was refused a connection: evidence, but no probe."""
        return replace(self, refused=True)


@dataclass(frozen=True, slots=True)
class Ejection:
    """What traffic says of one instance.

    `failures` in a row so far; out until `until`; ejected `times` in a row. After its time
    the instance is on trial: one failure ejects it again for longer, a success clears it.
    """

    failures: int = 0
    until: float = 0.0
    times: int = 0

    def after(self, signal: str, now: float, eject: Eject, may_eject: bool = True) -> "Ejection":
        """The state once `signal` came at `now`.

        `success` clears all but a running ejection: an answer sent before it is no news.
        `recovered` (the probes saw it come back) clears all. Any other signal is a failure,
        and ejects when there were enough in a row and `may_eject` allows it.
        """
        if signal == "recovered":
            return CLEAR
        if signal == "success":
            if self.until > now:
                return self
            return self if self is CLEAR else CLEAR
        if self.until > now:
            return self
        failures = min(self.failures + 1, eject.failures)
        if failures < eject.failures or not may_eject:
            return Ejection(failures, 0.0, self.times)
        times = self.times + 1
        return Ejection(failures, now + min(eject.base_s * times, eject.max_s), times)

    def is_ejected(self, now: float) -> bool:
        return self.until > now

    def word(self, now: float) -> Literal["healthy", "ejected", "trial"]:
        if self.until > now:
            return "ejected"
        return "trial" if self.times else "healthy"


CLEAR = Ejection()


def may_eject(address: str, words: Mapping[str, str], ejected: frozenset[str]) -> bool:
    """Whether passive evidence may take `address` out of its backend now.

    At most half of the backend's instances are out, and one that is up always stays.
    """
    out = len(ejected - {address}) + 1
    if out * 2 > len(words):
        return False
    return any(
        word == "up" and other != address and other not in ejected for other, word in words.items()
    )


def serving(words: Mapping[str, str], ejected: frozenset[str]) -> frozenset[str]:
    """The instances that may get requests, given each one's word and who is ejected now.

    Those that are up and not ejected. When there are none, evidence has run out and the
    rest is better than nothing (fail open): the ejected ones that are up, else the failing
    ones. What is starting or down never gets any. Leave draining and disabled ones out of
    `words`.
    """
    up = frozenset(address for address, word in words.items() if word == "up")
    if up:
        return up - ejected or up
    failing = frozenset(address for address, word in words.items() if word == "failing")
    return failing - ejected or failing


SLOW_START_S = 10.0
_LEAST_WEIGHT = 0.1


def slow_start(returned_s: float) -> float:
    """The part of its usual load, 0.1 to 1, that an instance gets `returned_s` after it came
    back: caches are cold and the evidence is young."""
    if returned_s >= SLOW_START_S:
        return 1.0
    return max(_LEAST_WEIGHT, returned_s / SLOW_START_S)

"""What does the evidence say about an instance, and which instances may get requests?

`HealthState` is all that is known of one instance: what its probes say, what requests met there,
and until when it is better avoided. `after` is its one transition; whoever has seen the same
signals has the same state (`gateway.core.evidence` replays them). Outlier detection is a part of
it: who fails is ejected, a circuit breaker per instance. `serving` chooses from the states and
fails open. Nothing here knows a clock or connections: what happened and when are arguments, times
are monotonic seconds.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Final, Literal

from gateway.core.table import Eject, Health

Word = Literal["starting", "up", "failing", "down"]
ProbeSignal = Literal[
    "ready", "unready", "late", "malformed", "probe_refused", "probe_unreachable", "probe_untrusted"
]
"""What one probe met: a success; another answer; none in time; what is no HTTP; nobody who
listens; no connection in time, nor a word why; or somebody with whom no TLS can be spoken."""

PROBE: dict[tuple[Word, str], Word] = {
    ("starting", "ready"): "up",
    ("starting", "probe_refused"): "down",
    ("starting", "probe_unreachable"): "down",
    ("starting", "probe_untrusted"): "failing",
    ("up", "unready"): "failing",
    ("up", "late"): "failing",
    ("up", "malformed"): "failing",
    ("up", "probe_unreachable"): "failing",
    ("up", "probe_untrusted"): "failing",
    ("up", "probe_refused"): "down",
    ("failing", "ready"): "up",
    ("failing", "probe_refused"): "down",
    ("failing", "probe_unreachable"): "down",
    ("down", "ready"): "up",
    ("down", "unready"): "starting",
    ("down", "late"): "failing",
    ("down", "malformed"): "failing",
    ("down", "probe_untrusted"): "failing",
}
"""Where enough probes in a row lead; a missing pair changes nothing and ends the row.

Who is refused is told that the process is gone; who gets no connection is told nothing: the
queue of connections to accept may be full, and such an instance is the last to be taken for
one that was never there. It is failing first, and down when it stays as silent.
"""

AT_ONCE = frozenset({("down", "unready"), ("down", "late"), ("down", "malformed")})
"""A sign of life of who gets nothing: there is nothing to weigh."""

PROBES = frozenset(signal for _, signal in PROBE)
ACCEPTED = frozenset({"unready", "late", "malformed"})  # somebody listens, and is not ready

ILL = frozenset(
    {"refused", "unreachable", "untrusted", "reset", "timeout", "broken_head", "gateway_error"}
)
"""What requests meet that is ill health, and ejects; an `error` is the model's own answer (500),
and only has others preferred."""

WEIGHTS = {"timeout": 3, "turned_away": 0}
"""As how many failures a signal counts. A timeout held a slot for its whole time, and few come
before it has done harm; who says that it takes nothing has not failed."""

AWAY = frozenset({"refused", "unreachable", "untrusted", "unresolved", "turned_away"})
"""The request was not worked on: another instance can take it without harm."""

GONE = frozenset({"refused", "probe_refused", "turned_away"})
"""Nobody listens, or whoever does takes nothing yet or any more. What is at that address next may
be a new process."""

LIFE = frozenset({"success", "answered", "alive"})
"""A whole answer that is no failure; the head of any answer; bytes of one that is under way."""

AVOID_S: Final = 0.5  # until the probes have asked whoever is at that address now
AFRESH: Final = 0.8  # of its time a running avoidance must have left to be left alone

OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})

ConnectSignal = Literal["refused", "unreachable", "exhausted"]


def connect_signal(number: int | None) -> ConnectSignal:
    """What a connection that could not be made says, by its error number; None: it took too long.

    `exhausted`: we have no descriptors, ports or memory left. That is no evidence about anybody.
    """
    if number in OUR_OWN:
        return "exhausted"
    return "refused" if number == errno.ECONNREFUSED else "unreachable"


@dataclass(frozen=True, slots=True)
class HealthState:
    """All that is known of one instance.

    Of its probes: `word`, and how many in a row were `good` or `bad`; `is_gone`: since it was last
    ready somebody was told that its process is gone; `answers`: the last was answered, not well.
    Of requests: `is_new` until anything came of it; `is_away`: took no request since it last
    answered well; `failures` in a row, `ill` of them by ill health; out until `ejected_until`,
    by `ejections` in a row; then on trial: one more failure ejects it for longer, a success
    clears it. Until `avoid_until` it gets only what nobody else can take. `returned_at`: when it
    last came back, for its slow start.
    """

    word: Word = "starting"
    good: int = 0
    bad: int = 0
    is_gone: bool = False
    is_new: bool = True
    is_away: bool = False
    failures: int = 0
    ill: int = 0
    ejections: int = 0
    ejected_until: float = 0.0
    avoid_until: float = 0.0
    returned_at: float = 0.0
    answers: bool = False

    def after(
        self, signal: str, at: float, health: Health, eject: Eject, may_eject: bool = True
    ) -> "HealthState":
        """The state once `signal` came `at` that time; the very same one where it says nothing
        new. `may_eject` is what the function of that name says."""
        if signal in PROBES:
            state = self._probed(signal, at, health)
        elif signal in LIFE:
            state = self._lives(signal, at)
        else:
            state = self._failed(signal, at, eject, may_eject)
        return self if state == self else state

    def _probed(self, signal: str, at: float, health: Health) -> "HealthState":
        """`rise` good probes or `fall` bad ones in a row tell.

        One whose process is gone, and that now accepts a connection without being ready, needs no
        counting: that is a new process at the old address, loading its model.
        """
        is_gone = signal != "ready" and (self.is_gone or signal in GONE)
        answers = signal == "unready"
        if is_gone and signal in ACCEPTED:
            return replace(self, word="starting", good=0, bad=0, is_gone=True, answers=answers)
        good = min(self.good + 1, health.rise) if signal == "ready" else 0
        target = PROBE.get((self.word, signal))
        bad = self.bad + 1 if target is not None and signal != "ready" else 0
        enough = good >= health.rise or bad >= health.fall or (self.word, signal) in AT_ONCE
        if target is None or not enough:
            return replace(self, good=good, bad=bad, is_gone=is_gone, answers=answers)
        if target != "up":
            return replace(self, word=target, good=0, bad=0, is_gone=is_gone, answers=answers)
        # It is ready again: what was learned before says nothing of it now.
        is_first = self.word == "starting" and self.is_new
        return HealthState(
            "up", good, is_new=self.is_new, returned_at=self.returned_at if is_first else at
        )

    def _lives(self, signal: str, at: float) -> "HealthState":
        state = replace(self, is_new=False) if self.is_new else self
        if self.word == "down" and not self.is_gone:
            state = replace(state, word="failing", good=0, bad=0)
        elif self.word == "failing" and self.bad:
            state = replace(state, bad=0)
        if signal != "success" or self.ejected_until > at:
            return state  # the answer to what was sent before an ejection is no news
        return replace(
            state, is_away=False, failures=0, ill=0, ejections=0, ejected_until=0.0, avoid_until=0.0
        )

    def _failed(self, signal: str, at: float, eject: Eject, may_eject: bool) -> "HealthState":
        is_gone = self.is_gone or signal in GONE
        if self.ejected_until > at or signal == "unresolved":
            avoid_until = max(self.avoid_until, at + AVOID_S) if signal in AWAY else 0.0
            return replace(
                self, is_gone=is_gone, is_away=self.is_away or signal in AWAY,
                avoid_until=max(self.avoid_until, avoid_until),
            )  # fmt: skip
        weight = WEIGHTS.get(signal, 1)
        failures = min(self.failures + weight, eject.failures)
        ill = min(self.ill + weight, eject.failures) if signal in ILL else self.ill
        state = replace(
            self,
            is_gone=is_gone,
            is_away=self.is_away or signal in AWAY,
            failures=failures,
            ill=ill,
        )
        if signal in ILL and ill >= eject.failures and may_eject:
            times = self.ejections + 1
            out_s = min(eject.base_s * times, eject.max_s)
            return replace(state, ejections=times, ejected_until=at + out_s)
        avoid_s = eject.base_s if weight and failures >= eject.failures else 0.0
        if signal in AWAY:
            avoid_s = max(avoid_s, AVOID_S)
        if avoid_s and self.avoid_until < at + AFRESH * avoid_s:
            return replace(state, avoid_until=at + avoid_s)
        return state

    @property
    def is_clear(self) -> bool:
        """Whether a good answer would say nothing new."""
        return not (
            self.is_new
            or self.is_away
            or self.failures
            or self.ejections
            or self.avoid_until
            or (self.word == "failing" and self.bad)
            or (self.word == "down" and not self.is_gone)
        )

    @property
    def may_be_another(self) -> bool:
        """Whether a new process may be at the address: nobody was well there since the old one
        was gone."""
        return self.is_gone and self.is_away

    def is_lost(self, eject: Eject) -> bool:
        """Whether nothing speaks for it: its probes fail, and so did as many requests in a row as
        would eject it. It may still be all that there is."""
        return self.word == "failing" and self.ill >= eject.failures

    def standing(self, now: float) -> Literal["healthy", "ejected", "trial"]:
        """What requests say of it."""
        if self.ejected_until > now:
            return "ejected"
        return "trial" if self.ejections else "healthy"

    def told(self) -> list[Any]:
        """The form in which it crosses a channel: `HealthState(*told)`."""
        return list(_told(self))


_told = attrgetter(*(each.name for each in fields(HealthState)))

UNKNOWN: Final = HealthState()


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


def had_time(started: float, whole_at: float, expires_at: float) -> bool:
    """Whether a deadline that passes says something of the instance: half of the time was left at
    least when all of the request was there for it (`whole_at`). Else its client took it, for the
    upload, or it waited for its turn, or another instance had it."""
    return expires_at - whole_at >= (expires_at - started) / 2


SLOW_START_S = 10.0
_MIN_WEIGHT = 0.1


def slow_start(returned_s: float) -> float:
    """The part of its usual load, 0.1 to 1, that an instance gets `returned_s` after it came
    back: caches are cold and the evidence is young."""
    if returned_s >= SLOW_START_S:
        return 1.0
    return max(_MIN_WEIGHT, returned_s / SLOW_START_S)

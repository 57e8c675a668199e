"""Which instances of a backend may get requests now (healthy, not ejected, not draining)?

By what the probes say, who was ejected and what was commanded: that is decided in `core.health`,
and whose turn it is among them in `core.balancing`.
"""

from gateway.core.balancing import choose
from gateway.core.concurrency_limit import Peers
from gateway.core.evidence import Evidence
from gateway.core.health import serving
from gateway.core.instance_load import Load
from gateway.core.table import Backend
from gateway.dataplane.cold_start import ColdStart
from gateway.dataplane.instance import Group, LiveInstance
from gateway.dataplane.shared import Shared


class Availability(Group):
    """The instances of one backend, and who of them serves. Its deadline ends the moment for which
    it is `vacant`, and one request ends one in which it `is_trying`. While it is `asleep`, requests
    wait for its start. It is `available` where it serves or will; where it is not, those that are
    `serving` get who waits, and nothing new. `leaving` are instances that were removed
    and finish what they have.
    """

    __slots__ = (
        "_peers", "_trials", "_try_at", "alone", "asleep", "available", "instances", "is_trying",
        "leaving", "loads", "rotation", "shared", "start", "vacant",
    )  # fmt: skip

    def __init__(self, shared: Shared, config: Backend, evidence: Evidence) -> None:
        super().__init__()
        self.shared = shared
        self.name = config.name
        self.config = config
        self.evidence = evidence
        self.instances: dict[str, LiveInstance] = {}
        self.serving = ()
        self.loads: tuple[Load, ...] = ()
        self.alone: LiveInstance | None = None  # the only one that serves, if it is not counted
        self.rotation = shared.random() >> 8  # a number that stays short, and quick to add to
        self._peers = Peers()
        self.vacant = False  # every instance turned a request away just now, or is lost
        self.asleep = self.available = self.is_trying = False
        self._trials, self._try_at = 0, 0.0
        self.leaving: list[LiveInstance] = []
        self.start = ColdStart(shared, config.name)

    @property
    def in_flight(self) -> int:
        return sum(each.load.in_flight for each in self.instances.values())

    def words(self) -> dict[str, str]:
        """What the probes say of each instance that may get new requests by command."""
        return {
            address: instance.health.word
            for address, instance in self.instances.items()
            if not instance.state
        }

    def ejected(self, now: float) -> frozenset[str]:
        return frozenset(
            address
            for address, instance in self.instances.items()
            if instance.health.ejected_until > now
        )

    def refresh(self) -> None:
        """Decides anew who serves. Called whenever evidence or commands changed."""
        serve = serving(self.words(), self.ejected(self.shared.now()))
        for each in self.instances.values():
            each.limit_to(self.max_in_flight, self.is_counted)
            each.load.concurrency.peers = self._peers
            each.load.fix(self.config.limit == "fixed")
        before, was_available = self.serving, self.available
        self.serving = tuple(each for key, each in self.instances.items() if key in serve)
        waits = len(self.waiting) > 0
        if self.config.on_demand or self.asleep:
            self.asleep = not self.serving and self._will_start()
            if self.asleep and self.waiting:
                self.start.ask(self.shared.now())
            elif not self.asleep and not self.waiting:
                self.start.over()  # all who waited for it have given up meanwhile
        self.available = self.asleep or len(self.serving) > 0
        if self.available != was_available:
            self.shared.generation += 1
        if not self.available and waits:
            self.serving = self._finishing(before)
            if was_available:
                self.shared.soon(self.turn_away)
        if self.serving != before:
            self.loads = tuple(each.load for each in self.serving)
            self.shared.generation += 1
            self.look_who_takes(self.shared.now())
        is_alone = len(self.serving) == 1 and not self.is_counted
        self.alone = self.serving[0] if is_alone else None
        if waits:
            self.shared.soon(self.wake)

    def _finishing(self, before: "tuple[LiveInstance, ...]") -> "tuple[LiveInstance, ...]":
        """The instances that served `before`, drain and are well: who waited already is of what
        they finish. One that is disabled gets nothing more."""
        drain = [each for each in before if each.state == "draining" and not each.gone]
        words = {each.address: each.health.word for each in drain}
        serve = serving(words, self.ejected(self.shared.now()))
        return tuple(each for each in drain if each.address in serve)

    def _will_start(self) -> bool:
        """Whether it is started once a request asks for it, or starts already: also one that slept
        and starts with the gateway since an edit."""
        is_new = {each.health.word for each in self.instances.values()} <= {"starting"}
        starts = self.config.on_demand or (self.asleep and self.config.is_to_be_placed)
        return starts and is_new and not self.start.has_failed

    def look_who_takes(self, now: float) -> None:
        """Notes whether every instance turned a request away just now. Then what another backend
        of the route can take goes there for a moment: the probes need one to say so, and in it a
        process that died and was started again would cost every request of its share.

        So it does as long as every instance is lost: one that hangs takes each request, and
        answers none. That ends with a good answer, or as soon as the probes have it up. Where
        probes are answered, if not well, their path may be at fault: then a request tries."""
        until = 0.0
        if all(each.health.is_away for each in self.serving):
            until = max((each.health.avoid_until for each in self.serving), default=0.0)
        eject = self.config.eject
        is_lost = bool(self.serving) and all(each.health.is_lost(eject) for each in self.serving)
        if not is_lost:
            self._trials = 0
        elif not self._trials:
            self._await_trial(now)
        tries = is_lost and any(each.health.answers for each in self.serving)
        looks_at = max(until, self._try_at) if tries else until
        if looks_at > now:
            self.shared.wheel.set(self, looks_at)
        self.is_trying = tries and looks_at <= now
        is_vacant = (is_lost and not self.is_trying) or until > now
        if is_vacant != self.vacant:
            self.vacant = is_vacant
            self.shared.generation += 1

    def _await_trial(self, now: float) -> None:
        """The next trial comes as late as the next end of an ejection would."""
        self._trials += 1
        eject = self.config.eject
        self._try_at = now + min(eject.base_s * self._trials, eject.max_s)

    def tried(self, now: float) -> None:
        """One request is under way to who is lost: the others wait for what comes of it."""
        self._await_trial(now)
        self.look_who_takes(now)

    def expired(self, now: float) -> None:
        """The moment is over: whether somebody is there now is asked by a request."""
        self.look_who_takes(now)

    def other(self, tried: tuple[LiveInstance, ...], now: float) -> LiveInstance | None:
        """An instance that was not tried: the best one with room, else the least busy.

        Who is tried again has waited already and is few (the budget sees to it): it does not
        queue behind others, up to `max_in_flight`.
        """
        left = [each for each in self.serving if each not in tried]
        if not left or not self.available:
            return None
        self.rotation += 1
        loads = [each.load for each in left]
        index = choose(self.config.balance, loads, self.rotation, now)
        if index >= 0:
            return left[index]
        best = min(left, key=lambda each: each.load.in_flight)
        return best if tried and best.load.in_flight < best.load.limit else None

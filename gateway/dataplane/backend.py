"""Who serves a backend's requests now, and who waits for them?

The live side of one configured backend: its instances, which of them may get requests, and
the one queue in which requests wait at the gateway rather than behind others in a slow
instance. The decisions are the core's; this carries them out.
"""

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.balancing import REFUSED_S, Load, choose
from gateway.core.errors import NoRoom
from gateway.core.headers import timeout_line
from gateway.core.health import serving
from gateway.core.queueing import Admission, Placement, Refuse, place, rather_than_refuse
from gateway.core.table import Backend, Queue
from gateway.dataplane.deadlines import Timed
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.turns import is_few

if TYPE_CHECKING:
    from gateway.dataplane.context import Plane
    from gateway.dataplane.exchange import Exchange
    from gateway.dataplane.mirroring import Copy

AGAIN_S = 0.001  # between two looks for a turn that another worker may have given back


class LiveBackend(Timed):
    """The instances of one backend, who of them serves, and who waits for them. Its deadline
    ends the moment for which it is `vacant`."""

    __slots__ = (
        "_is_looking", "admission", "alone", "config", "copies", "instances", "is_counted",
        "loads", "most", "name", "plane", "serving", "timeout_line", "turn", "vacant", "waiting",
    )  # fmt: skip

    def __init__(self, plane: "Plane", config: Backend) -> None:
        super().__init__()
        self.plane = plane
        self.name = config.name
        self.config = config
        self.instances: dict[str, LiveInstance] = {}
        self.serving: tuple[LiveInstance, ...] = ()
        self.loads: tuple[Load, ...] = ()
        self.alone: LiveInstance | None = None  # the only one that serves, if it is not counted
        self.waiting: deque[Exchange] = deque()
        self.copies: set[Copy] = set()  # mirrored here, under way
        self.admission = Admission(self._queue(config))
        self.most, self.is_counted = self._most(config)
        self.timeout_line = timeout_line(config.timeouts.response_s)
        self.turn = plane.random()
        self._is_looking = False
        self.vacant = False  # every instance turned a request away just now

    def configure(self, config: Backend) -> None:
        """Takes an edit; what did not change goes on as it was."""
        if config.queue != self.config.queue:
            self.admission = Admission(self._queue(config))
        self.most, self.is_counted = self._most(config)
        self.config = config
        self.timeout_line = timeout_line(config.timeouts.response_s)

    def _most(self, config: Backend) -> tuple[int, bool]:
        """How many requests of this worker an instance may have, and whether each of them takes
        a turn: the configured number is for all workers together. A large one is shared out,
        for connections are dealt out evenly; a few are counted."""
        most, workers = config.max_in_flight, self.plane.options.workers
        return (most, True) if is_few(most, workers) else (most // workers, False)

    def _queue(self, config: Backend) -> Queue:
        """This worker's part of the backend's queue."""
        return replace(config.queue, size=-(-config.queue.size // self.plane.options.workers))

    def words(self) -> dict[str, str]:
        """What the probes say of each instance that may get new requests by command."""
        return {
            address: instance.word
            for address, instance in self.instances.items()
            if not instance.state
        }

    def ejected(self, now: float) -> frozenset[str]:
        return frozenset(
            address for address, instance in self.instances.items() if instance.ejection.until > now
        )

    def refresh(self) -> None:
        """Decides anew who serves. Called whenever evidence or commands changed."""
        serve = serving(self.words(), self.ejected(self.plane.now()))
        for each in self.instances.values():
            each.limit_to(self.most, self.is_counted)
        before = self.serving
        self.serving = tuple(each for key, each in self.instances.items() if key in serve)
        if self.serving != before:
            self.vacant = False
            self.loads = tuple(each.load for each in self.serving)
            self.plane.generation += 1
        is_alone = len(self.serving) == 1 and not self.is_counted
        self.alone = self.serving[0] if is_alone else None
        if self.waiting:
            self.plane.soon(self)

    def turned_away(self, now: float) -> None:
        """An instance took no request. When none does, what another backend of the route can take
        goes there for a moment: the probes need one to say so, and in it a process that died
        and was started again would cost every request of its share."""
        if not self.vacant and all(each.refused for each in self.serving):
            self.vacant = True
            self.plane.generation += 1
            self.plane.wheel.set(self, now + REFUSED_S)

    def expired(self, now: float) -> None:
        """The moment is over: whether somebody is there now is asked by a request."""
        self.vacant = False
        self.plane.generation += 1

    # requests: one goes to an instance at once, or waits here for the first that has room

    def enter(self, exchange: "Exchange", now: float) -> None:
        """Sends `exchange` to an instance or lets it wait; raises NoRoom to refuse it."""
        self.turn += 1
        if not self.waiting:
            alone = self.alone
            if alone is not None:
                # The usual case in short: one instance that has room.
                load = alone.load
                in_flight = load.in_flight
                if not in_flight or (
                    in_flight < load.limit and load.weight >= 1.0 and load.occupied(now) < load.most
                ):
                    self.admission.dispatched(now)
                    exchange.begin(alone, now)
                    return
            spot = self._place(1, now)
            if spot is not None:
                self._send(exchange, self.serving[spot.instance], now)
                return
        self.waiting.append(exchange)
        if self.copies:
            self.copies.pop().drop()  # nobody waits for a copy's answer
        self.dispatch()
        if exchange in self.waiting:
            self._admit(exchange, now)

    def _place(self, waiting: int, now: float) -> Placement | None:
        """Where one of the `waiting` goes now, if anywhere; its turn there is taken."""
        balance = self.config.balance
        while True:
            spot = place(balance, self.loads, waiting, self.turn, now)
            if spot is None or not self.is_counted or self.serving[spot.instance].takes():
                return spot

    def _admit(self, exchange: "Exchange", now: float) -> None:
        """Whether it is worth waiting: who cannot be answered in time is told so at once."""
        verdict = self.admission.admit(
            now, self.loads, len(self.waiting) - 1, exchange.patience_until - now
        )
        if isinstance(verdict, Refuse):
            self.waiting.remove(exchange)
            index = rather_than_refuse(self.loads, self.turn, now)
            if index >= 0 and self.serving[index].takes():
                self._send(exchange, self.serving[index], now)
                return
            raise _no_room(verdict)
        until = min(exchange.patience_until, now + self.config.queue.timeout_s)
        self.plane.wheel.set(exchange, until)

    def foresee(self, patience_s: float, now: float) -> NoRoom | None:
        """The refusal that a request would get if it entered now; None if it would get none."""
        loads, waiting = self.loads, len(self.waiting)
        spot = place(self.config.balance, loads, waiting + 1, self.turn, now)
        if spot is not None or rather_than_refuse(loads, self.turn, now) >= 0:
            return None
        verdict = self.admission.foresee(now, loads, waiting, patience_s)
        return _no_room(verdict) if isinstance(verdict, Refuse) else None

    def dispatch(self) -> None:
        """Sends who waits to where there is room now."""
        waiting = self.waiting
        now = self.plane.now()
        while waiting:
            if not self.serving:
                self._turn_away()
                return
            self.turn += 1
            spot = self._place(len(waiting), now)
            if spot is None:
                return
            exchange = waiting[spot.position]
            del waiting[spot.position]
            self._send(exchange, self.serving[spot.instance], now)

    def look_again(self) -> None:
        """Looks for turns again in a moment: another worker has them all, and gives no sign
        when it gives one back."""
        if not self._is_looking:
            self._is_looking = True
            self.plane.later(AGAIN_S, self._look)

    def _look(self) -> None:
        self._is_looking = False
        for each in self.instances.values():
            each.load.limit = self.most
        self.dispatch()
        for each in self.instances.values():
            if each.turns is not None and each.turns.is_next:
                if self.waiting:
                    self.look_again()
                else:
                    each.turns.resign()

    def _turn_away(self) -> None:
        """Nobody is left here: who waits goes where its route says, or is told so."""
        while self.waiting:
            self.waiting.popleft().move_on()

    def _send(self, exchange: "Exchange", instance: LiveInstance, now: float) -> None:
        self.admission.dispatched(now)
        exchange.begin(instance, now)

    def other(self, tried: tuple[LiveInstance, ...], now: float) -> LiveInstance | None:
        """An instance that was not tried: the best one with room, else the least busy.

        Who is tried again has waited already and is few (the budget sees to it): it does not
        queue behind others, up to `max_in_flight`.
        """
        left = [each for each in self.serving if each not in tried]
        if not left:
            return None
        self.turn += 1
        loads = [each.load for each in left]
        index = choose(self.config.balance, loads, self.turn, now)
        if index >= 0:
            return left[index]
        best = min(left, key=lambda each: each.load.in_flight)
        return best if tried and best.load.in_flight < best.load.limit else None

    def withdraw(self, exchange: "Exchange") -> None:
        """`exchange` waits no more."""
        if exchange in self.waiting:
            self.waiting.remove(exchange)

    @property
    def in_flight(self) -> int:
        return sum(each.load.in_flight for each in self.instances.values())


def _no_room(verdict: Refuse) -> NoRoom:
    detail = "The backend's queue is full."
    return NoRoom(detail, verdict.code, retry_after_s=verdict.retry_after_s)

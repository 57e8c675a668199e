"""Who serves a backend's requests now, and who waits for them?

The live side of one configured backend: its instances, which of them may get requests, and
the one queue in which requests wait at the gateway rather than behind others in a slow
instance. The decisions are the core's; this carries them out.
"""

from abc import abstractmethod
from bisect import insort
from collections import deque
from dataclasses import replace
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.balancing import Load, choose
from gateway.core.concurrency_limit import Peers
from gateway.core.errors import GatewayError, NoRoom
from gateway.core.evidence import Evidence
from gateway.core.fair_turns import NEXT_AHEAD, Courtesy, FairTurns
from gateway.core.headers import timeout_line
from gateway.core.health import serving
from gateway.core.queueing import (
    GLANCE_S,
    LOOK_S,
    Admission,
    Placement,
    Refuse,
    beyond_a_guess,
    moment_s,
    place,
    rather_than_refuse,
)
from gateway.core.table import Backend
from gateway.dataplane.cold_start import ColdStart
from gateway.dataplane.deadlines import Timed, fault
from gateway.dataplane.instance import Group, LiveInstance
from gateway.dataplane.meeting import Meeting
from gateway.dataplane.permits import is_few
from gateway.dataplane.shared import Shared

NO_ROOM: Final = {
    "no_backend": "No instance of the backend can take the request now.",
    "queue_full": "The backend's queue is full (queue.size), or its wait too long (queue.timeout).",
}
AGAIN_S: Final = 0.001  # between two looks for a permit that another worker may have given back


@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter(Timed):
    """What waits for an instance: since `ready_at`, and until `expires_at` at most."""

    __slots__ = ("expires_at", "is_next", "ready_at", "turn")
    expires_at: float
    is_next: bool
    ready_at: float
    turn: float

    @property
    def consumer(self) -> str:
        """Whose request it is; "" if that is not known."""
        return ""

    @property
    def wakes(self) -> bool:
        """Whether a backend that is asleep is to be started for it."""
        return True

    def loaded(self) -> None:
        """The backend that it waited for has been started."""

    @abstractmethod
    def begin(self, instance: LiveInstance, now: float) -> None: ...
    @abstractmethod
    def move_on(self) -> None: ...
    @abstractmethod
    def fail(self, fault: GatewayError) -> None: ...


class LiveBackend(Group):
    """The instances of one backend, who of them serves, and who waits for them. Its deadline
    ends the moment for which it is `vacant`. While it is `asleep`, requests wait for its start.
    It is `available` where it serves or will; `leaving` are instances that finish what they have.
    """

    __slots__ = (
        "_courtesy", "_is_hurrying", "_is_looking", "_is_watching", "_next", "_peers",
        "_shared_queue", "_turns", "admission", "alone", "asleep", "available", "copies",
        "instances", "leaving", "loads", "rotation", "shared", "start", "vacant",
    )  # fmt: skip

    def __init__(self, shared: Shared, config: Backend, evidence: Evidence) -> None:
        super().__init__()
        self.shared = shared
        self.name = config.name
        self.config = config
        self.evidence = evidence
        self.met = Meeting(shared, config.name)
        self.instances: dict[str, LiveInstance] = {}
        self.serving = ()
        self.loads: tuple[Load, ...] = ()
        self.alone: LiveInstance | None = None  # the only one that serves, if it is not counted
        self.waiting: deque[Waiter] = deque()  # in the order of their turns
        self._turns, self._courtesy = FairTurns(), Courtesy()
        self._next = 0  # how many here are next in turn, as the other workers know
        self._is_hurrying = False
        self.copies: set[Timed] = set()  # mirrored here, under way
        self._shared_queue = shared.load_memory.queue(config.name)
        self.admission = self._admission(config)
        self.max_in_flight, self.is_counted = self._limit(config)
        self._be_met(config)
        self.rotation = shared.random()
        self._is_looking = False
        self._is_watching = False
        self._peers = Peers()
        self.vacant = False  # every instance turned a request away just now
        self.asleep = self.available = False
        self.leaving: list[LiveInstance] = []
        self.start = ColdStart(shared, config.name)

    def configure(self, config: Backend) -> None:
        """Takes an edit; what did not change goes on as it was."""
        if config.queue != self.config.queue:
            self.admission = self._admission(config)
            self.admission.waits(len(self.waiting))
        self.max_in_flight, self.is_counted = self._limit(config)
        self.config = config
        self._be_met(config)

    def _be_met(self, config: Backend) -> None:
        """Takes an edit of how its instances are met."""
        self.met.configure(config, self._met_anew)
        self.timeout_line = timeout_line(config.timeouts.response_s) + self.met.lines

    def _met_anew(self) -> None:
        """Its files were read: connections that were made by the ones before are not used again."""
        self.met.take()
        self.timeout_line = timeout_line(self.config.timeouts.response_s) + self.met.lines
        for each in self.instances.values():
            each.pool.renew()

    def _limit(self, config: Backend) -> tuple[int, bool]:
        """How many requests of this worker an instance may have, and whether each of them takes
        a permit: the configured number is for all workers together. A large one is shared out,
        for connections are dealt out evenly; a few are counted."""
        limit, workers = config.max_in_flight, self.shared.options.workers
        return (limit, True) if is_few(limit, workers) else (limit // workers, False)

    def _admission(self, config: Backend) -> Admission:
        """Who may wait, in the queue of all workers, or in this one's part of it."""
        if self._shared_queue is not None:
            return Admission(config.queue, self._shared_queue)
        size = -(-config.queue.size // self.shared.options.workers)
        return Admission(replace(config.queue, size=size))

    def leave(self) -> None:
        """It was removed."""
        self.met.leave()
        self.shared.load_memory.leave(self.name)

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
        if self.config.on_demand or self.asleep:
            self.asleep = not self.serving and self._will_start()
            if self.asleep and self.waiting:
                self.start.ask(self.shared.now())
        self.available = self.asleep or len(self.serving) > 0
        if self.available != was_available:
            self.shared.generation += 1
        if self.serving != before:
            self.vacant = False
            self.loads = tuple(each.load for each in self.serving)
            self.shared.generation += 1
        is_alone = len(self.serving) == 1 and not self.is_counted
        self.alone = self.serving[0] if is_alone else None
        if self.waiting:
            self.shared.soon(self.wake)

    def _will_start(self) -> bool:
        """Whether it is started once a request asks for it, or starts already."""
        is_new = {each.health.word for each in self.instances.values()} <= {"starting"}
        return self.config.on_demand and is_new and not self.start.has_failed

    def look_who_takes(self, now: float) -> None:
        """Notes whether every instance turned a request away just now. Then what another backend
        of the route can take goes there for a moment: the probes need one to say so, and in it a
        process that died and was started again would cost every request of its share."""
        until = 0.0
        if all(each.health.is_away for each in self.serving):
            until = max((each.health.avoid_until for each in self.serving), default=0.0)
        if until > now:
            self.shared.wheel.set(self, until)
        if (until > now) != self.vacant:
            self.vacant = until > now
            self.shared.generation += 1

    def expired(self, now: float) -> None:
        """The moment is over: whether somebody is there now is asked by a request."""
        self.look_who_takes(now)

    # requests: one goes to an instance at once, or waits here for the first that has room

    def enter(self, waiter: Waiter, now: float) -> None:
        """Sends `waiter` to an instance or lets it wait; raises NoRoom to refuse it."""
        self.rotation += 1
        if not self.waiting:
            alone = self.alone
            if alone is not None:
                # The usual case in short: one instance that has room.
                load = alone.load
                in_flight = load.in_flight
                if in_flight < load.limit and (
                    in_flight <= load.held
                    or (load.weight >= 1.0 and load.occupied_now(now) < load.target)
                ):
                    waiter.begin(alone, now)
                    return
            spot = self._place(1, now)
            if spot is not None:
                waiter.begin(self.serving[spot.instance], now)
                return
        if self.asleep:
            self._wait_for_start(waiter, now)
            return
        self._line_up(waiter)
        if self.copies:
            self.copies.pop().give_up()  # nobody waits for a copy's answer
        self.dispatch()
        if waiter in self.waiting:
            self._admit(waiter, now)
            self._tell()

    def _wait_for_start(self, waiter: Waiter, now: float) -> None:
        """Lets `waiter` wait until the backend was started, which it asks for, unless it is none
        that does; raises NoRoom where too many wait."""
        if not waiter.wakes:
            waiter.move_on()
            return
        self.start.ask(now)
        if not self.admission.has_place(len(self.waiting)):
            what = "the backend's queue is full (queue.size)"
            raise self.start.refusal(what, "queue_full", now)
        self._line_up(waiter)
        until = min(waiter.expires_at, now + self.config.queue.timeout_s)
        self.shared.wheel.set(waiter, until)
        self.admission.waits(len(self.waiting))

    def too_late(self, now: float) -> NoRoom:
        """The refusal of who waited too long."""
        if not self.asleep:
            return NoRoom("The request waited too long (queue.timeout).", "queue_timeout")
        what = "the request waited too long (queue.timeout)"
        return self.start.refusal(what, "queue_timeout", now)

    def _line_up(self, waiter: Waiter) -> None:
        """Lets `waiter` wait in its turn."""
        waiting, turn = self.waiting, self._turns.turn(waiter.consumer)
        waiter.turn = turn
        waiter.is_next = waiter.consumer != "" and self._turns.is_next(turn)
        if not waiting or waiting[-1].turn <= turn:
            waiting.append(waiter)
        else:
            insort(waiting, waiter, key=_turn)

    def _place(self, waiting: int, now: float) -> Placement | None:
        """Where one of the `waiting` goes now, if anywhere; its permit there is taken."""
        balance = self.config.balance
        while True:
            spot = place(balance, self.loads, waiting, self.rotation, now)
            if spot is None and self._next and self._shared_queue is not None:
                # Other workers have many waiting, and refill what is computed as soon as they hear
                # of room: who is next does better behind a few in the instance.
                self._shared_queue.look()
                if self._shared_queue.first > 0.0:
                    index = choose(balance, self.loads, self.rotation, now, NEXT_AHEAD)
                    spot = Placement(index, 0) if index >= 0 else None
            if spot is None or not self.is_counted or self.serving[spot.instance].takes():
                return spot

    def _admit(self, waiter: Waiter, now: float) -> None:
        """Whether it is worth waiting: who cannot be answered in time is told so at once."""
        self.shared.load_memory.notice(now)
        verdict = self.admission.admit(
            now, self.loads, len(self.waiting) - 1, waiter.expires_at - now
        )
        last = self.waiting[-1]
        if isinstance(verdict, Refuse) and last is not waiter:
            # Who has more of the queue than others makes room: it would be refused next.
            self.waiting.pop()
            self.shared.soon(lambda: last.fail(_no_room(verdict)))
        elif isinstance(verdict, Refuse) and not self._is_owed(waiter):
            self.waiting.remove(waiter)
            self._tell()
            index = rather_than_refuse(self.loads, self.rotation, now)
            if index >= 0 and self.serving[index].takes():
                waiter.begin(self.serving[index], now)
                return
            raise _no_room(verdict)
        until = min(waiter.expires_at, now + self.config.queue.timeout_s)
        self.shared.wheel.set(waiter, until)
        self._watch()

    def _is_owed(self, waiter: Waiter) -> bool:
        """Whether `waiter`, which is next in turn, may wait though the queue is full: of somebody
        else's requests in other workers, while this one has not its part of the queue."""
        part = self.config.queue.size // self.shared.options.workers
        is_shared = self._shared_queue is not None
        return is_shared and waiter.is_next and len(self.waiting) <= part

    def would_refuse(self, remaining_s: float, now: float) -> NoRoom | None:
        """The refusal that a request would get if it entered now; None if it would get none."""
        loads, waiting = self.loads, len(self.waiting)
        if self.asleep:
            return None
        spot = place(self.config.balance, loads, waiting + 1, self.rotation, now)
        if spot is not None or rather_than_refuse(loads, self.rotation, now) >= 0:
            return None
        verdict = self.admission.would_admit(now, loads, waiting, remaining_s)
        return _no_room(verdict) if isinstance(verdict, Refuse) else None

    def dispatch(self) -> None:
        """Sends who waits to where there is room now."""
        waiting = self.waiting
        now = self.shared.now()
        while waiting:
            if not self.serving:
                if not self.asleep:
                    self._turn_away()
                return
            self.rotation += 1
            if self._lets_go_first(waiting[0], now):
                break
            spot = self._place(len(waiting), now)
            if spot is None:
                break
            waiter = waiting[spot.position]
            del waiting[spot.position]
            self._turns.gone(waiter.turn)
            try:
                if self.start.is_awaited:
                    waiter.loaded()
                waiter.begin(self.serving[spot.instance], now)
            except Exception:  # its own, not that of who made room for it
                fault(waiter.give_up)
        if not waiting:
            self._turns.emptied()
            self.start.over()
        self._tell()

    def _tell(self) -> None:
        """Lets the other workers know who waits here. Those that are next in turn come first."""
        waiting = self.waiting
        self.admission.waits(len(waiting))
        if self._shared_queue is None or (not self._next and not (waiting and waiting[0].is_next)):
            return
        count = 0
        for each in waiting:
            if not each.is_next:
                break
            count += 1
        if count != self._next:
            self._next = count
            self._shared_queue.tell_next(count)
        if count:
            self._hurry()

    def _lets_go_first(self, waiter: Waiter, now: float) -> bool:
        """Whether `waiter`, the first one here, stays for a moment because another worker has
        somebody whose turn is before its own."""
        queue = self._shared_queue
        if queue is None or not waiter.consumer:
            return False
        if not self._courtesy.yields(now, waiter.is_next, queue.others_next):
            return False
        self._hurry()
        return True

    def _hurry(self) -> None:
        """Looks again in a moment for the room that other workers leave, or have left."""
        if not self._is_hurrying:
            self._is_hurrying = True
            self.shared.later(AGAIN_S, self._hurried)

    def _hurried(self) -> None:
        self._is_hurrying = False
        self.wake()

    def wake(self) -> None:
        """Sends who waits, called by the loop itself."""
        try:
            self.dispatch()
        except Exception:
            # As for one that comes now: 500, and the next one is tried in its turn.
            fault(self._give_up_first)

    def _give_up_first(self) -> None:
        """A fault of ours: who waits for longest is told, and the others are looked at again."""
        if self.waiting:
            waiter = self.waiting.popleft()
            self.shared.soon(self.wake)
            waiter.give_up()

    def _watch(self) -> None:
        """While somebody waits for a limit that is but a guess, looks whether it has lapsed: that
        needs no answer. Nobody waits for a guess for longer than a moment. And other workers give
        no sign when they have made room."""
        if self._is_watching:
            return
        if self._shared_queue is not None:
            self._is_watching = True
            self.shared.later(GLANCE_S, self._watched)
        elif not all(load.slots for load in self.loads):
            self._is_watching = True
            self.shared.later(LOOK_S, self._watched)

    def _watched(self) -> None:
        self._is_watching = False
        self.dispatch()
        waiting, now = self.waiting, self.shared.now()
        longest_s = moment_s(self.loads, self.config.queue)
        while waiting and now - waiting[0].ready_at > longest_s:
            index = beyond_a_guess(self.loads, now)
            if index < 0 or not self.serving[index].takes():
                break
            waiting.popleft().begin(self.serving[index], now)
        self._tell()
        if waiting:
            self._watch()

    def look_again(self) -> None:
        """Looks for permits again in a moment: another worker has them all, and gives no sign
        when it gives one back."""
        if not self._is_looking:
            self._is_looking = True
            self.shared.later(AGAIN_S, self._look)

    def _look(self) -> None:
        self._is_looking = False
        for each in self.instances.values():
            each.load.limit = self.max_in_flight
        self.wake()
        for each in self.instances.values():
            if each.permits is not None and each.permits.is_next:
                if self.waiting:
                    self.look_again()
                else:
                    each.permits.resign()

    def _turn_away(self) -> None:
        """Nobody is left here: who waits goes where its route says, or is told so."""
        while self.waiting:
            waiter = self.waiting.popleft()
            try:
                waiter.move_on()
            except Exception:
                fault(waiter.give_up)

    def other(self, tried: tuple[LiveInstance, ...], now: float) -> LiveInstance | None:
        """An instance that was not tried: the best one with room, else the least busy.

        Who is tried again has waited already and is few (the budget sees to it): it does not
        queue behind others, up to `max_in_flight`.
        """
        left = [each for each in self.serving if each not in tried]
        if not left:
            return None
        self.rotation += 1
        loads = [each.load for each in left]
        index = choose(self.config.balance, loads, self.rotation, now)
        if index >= 0:
            return left[index]
        best = min(left, key=lambda each: each.load.in_flight)
        return best if tried and best.load.in_flight < best.load.limit else None

    def withdraw(self, waiter: Waiter) -> None:
        """`waiter` waits no more."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self._tell()

    @property
    def in_flight(self) -> int:
        return sum(each.load.in_flight for each in self.instances.values())


def _turn(waiter: Waiter) -> float:
    return waiter.turn


def _no_room(verdict: Refuse) -> NoRoom:
    return NoRoom(NO_ROOM[verdict.code], verdict.code, retry_after_s=verdict.retry_after_s)

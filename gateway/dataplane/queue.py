"""Who waits for an instance of a backend, and who is refused?

The one queue in which requests wait at the gateway rather than behind others in a slow instance.
Where one of them goes and whether it is worth waiting (admission) is decided in `core.queueing`.
"""

from collections import deque
from dataclasses import replace
from typing import Final

from gateway.core.errors import NoRoom
from gateway.core.evidence import Evidence
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
from gateway.dataplane.deadlines import Timed, fault
from gateway.dataplane.in_flight_limit import AGAIN_S, WithinLimit
from gateway.dataplane.queue_turns import QueueTurns
from gateway.dataplane.shared import Shared
from gateway.dataplane.waiter import Waiter

NO_ROOM: Final = {
    "no_backend": "No instance of the backend can take the request now.",
    "queue_full": "The backend's queue is full (queue.size), or its wait too long (queue.timeout).",
}


class Queue(WithinLimit):
    """The instances of one backend, and who waits for them."""

    __slots__ = ("_is_hurrying", "_is_watching", "_turns", "admission", "copies")

    def __init__(self, shared: Shared, config: Backend, evidence: Evidence) -> None:
        super().__init__(shared, config, evidence)
        self.waiting: deque[Waiter] = deque()  # in the order of their turns
        self._turns = QueueTurns(shared.load_memory.queue(config.name))
        self._is_hurrying = False
        self._is_watching = False
        self.copies: set[Timed] = set()  # mirrored here, under way
        self.admission = self._admission(config)

    def _admission(self, config: Backend) -> Admission:
        """Who may wait, in the queue of all workers, or in this one's part of it."""
        if self._turns.shared is not None:
            return Admission(config.queue, self._turns.shared)
        size = -(-config.queue.size // self.shared.options.workers)
        return Admission(replace(config.queue, size=size))

    def enter(self, waiter: Waiter, now: float) -> None:
        """Sends `waiter` to an instance or lets it wait; raises NoRoom to refuse it."""
        self.rotation += 1
        if self.is_trying:
            self.tried(now)
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
        self._turns.line_up(self.waiting, waiter)
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
        self._turns.line_up(self.waiting, waiter)
        until = min(waiter.expires_at, now + self.config.queue.timeout_s)
        self.shared.wheel.set(waiter, until)
        self.admission.waits(len(self.waiting))

    def too_late(self, now: float) -> NoRoom:
        """The refusal of who waited too long."""
        if not self.asleep:
            return NoRoom("The request waited too long (queue.timeout).", "queue_timeout")
        what = "the request waited too long (queue.timeout)"
        return self.start.refusal(what, "queue_timeout", now)

    def _place(self, waiting: int, now: float) -> Placement | None:
        """Where one of the `waiting` goes now, if anywhere; its permit there is taken."""
        balance, turns = self.config.balance, self._turns
        while True:
            ahead = turns.ahead(self.waiting, self.loads, now)
            spot = place(balance, self.loads, waiting, self.rotation, now, ahead)
            if spot is None or not self.is_counted:
                return spot
            if turns.gives_way(self.waiting, now):
                self.serving[spot.instance].pass_over()
            elif self.serving[spot.instance].takes():
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
        """Whether `waiter` may wait though the queue is full: of somebody else's requests in other
        workers, while this one has not its part of the queue."""
        turns, name = self._turns, waiter.consumer
        if turns.shared is None or not name or turns.has_most(self.waiting, name):
            return False
        return len(self.waiting) <= self.config.queue.size // self.shared.options.workers

    def would_refuse(self, remaining_s: float, now: float) -> NoRoom | None:
        """The refusal that a request would get if it entered now; None if it would get none."""
        loads, waiting = self.loads, len(self.waiting)
        if self.asleep:
            return None
        ahead = self._turns.ahead(self.waiting, self.loads, now)
        spot = place(self.config.balance, loads, waiting + 1, self.rotation, now, ahead)
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
                    self.turn_away()
                break
            self.rotation += 1
            spot = self._place(len(waiting), now)
            if spot is None:
                if self._turns.is_pressed(waiting):
                    self._hurry()
                break
            waiter = waiting[spot.position]
            del waiting[spot.position]
            self._turns.left(waiter)
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
        """Lets the other workers know who waits here."""
        self.admission.waits(len(self.waiting))
        self._turns.tell(self.waiting)

    def _hurry(self) -> None:
        """Looks again in a moment for the room that other workers make."""
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
        if self._turns.shared is not None:
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

    def turn_away(self) -> None:
        """Nobody is left here for what comes: who waits goes where its route says, else to those
        that finish what they have, or is told so."""
        waiting = list(self.waiting)
        self.waiting.clear()
        for waiter in waiting:
            try:
                waiter.move_on()
            except Exception:
                fault(waiter.give_up)

    def keep(self, waiter: Waiter) -> bool:
        """Whether one that was turned away waits on in its turn, for those that finish here."""
        if self.serving:
            self.waiting.append(waiter)
        return len(self.serving) > 0

    def withdraw(self, waiter: Waiter) -> None:
        """`waiter` waits no more."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
            self._tell()


def _no_room(verdict: Refuse) -> NoRoom:
    return NoRoom(NO_ROOM[verdict.code], verdict.code, retry_after_s=verdict.retry_after_s)

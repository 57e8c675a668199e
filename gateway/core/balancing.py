"""Which instance of a backend gets a request?

The one with the least expected delay: how long it takes for an answer, learned from its own
answers, stretched by what it already has to do. What it has to do is what this worker sent
and has not got back, what others sent, and what the instance itself last reported. All
instances are looked at each time; two random choices lose to that when there are few.

`Load` is plain state that its owner updates; `choose` decides and changes nothing. Which
instances may get requests at all is `health`; how many each may have is `queueing`.
"""

from collections.abc import Sequence
from typing import Final

FADE_S: Final = 2.0  # after which a report says nothing more
FORGET_S: Final = 30.0  # after which an unused instance is thought as fast as its peers
LEARN: Final = 0.1  # weight of a new answer in the learned service time
SHUN_S: Final = 5.0
SHUN_AFTER: Final = 5
_STEP: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


class Load:
    """What one worker knows of one instance's load. Lives as long as the instance does.

    `in_flight` counts this worker's own requests and `others` those of other workers;
    `slots` is how many it computes at once, 0 while unknown; `service_s` how long one takes
    without waiting, 0.0 while unknown; `weight` is below 1 during slow start.
    """

    __slots__ = (
        "_foreign", "_learned_at", "_reported_at", "_wait_s",
        "failures", "in_flight", "others", "service_s", "shunned_until", "slots", "weight",
    )  # fmt: skip

    def __init__(
        self,
        in_flight: int = 0,
        others: float = 0.0,
        *,
        slots: float = 0.0,
        service_s: float = 0.0,
        weight: float = 1.0,
    ) -> None:
        self.in_flight = in_flight
        self.others = others
        self.slots = slots
        self.service_s = service_s
        self.weight = weight
        self.failures = 0
        self.shunned_until = 0.0
        self._foreign = 0.0
        self._wait_s = 0.0
        self._reported_at = -FADE_S
        self._learned_at = 0.0

    def sent(self, now: float) -> float:
        """Notes a request sent; gives what `answered` wants to know: the requests at the
        instance, this one included."""
        self.in_flight += 1
        return self.occupied(now)

    def done(self) -> None:
        """Notes that a request is off the instance, however it ended."""
        self.in_flight -= 1

    def answered(self, now: float, elapsed_s: float, occupied: float, failed: bool) -> None:
        """Learns from an answer that took `elapsed_s` to its last byte.

        `occupied` is what `sent` gave. A failure, such as a 500, teaches no speed: to fail
        is quick, and whoever fails quickly must attract nothing.
        """
        if failed:
            self.failures += 1
            if self.failures >= SHUN_AFTER:
                self.shunned_until = now + SHUN_S
            return
        self.failures = 0
        self.shunned_until = 0.0
        slots = self.slots or 1.0
        sample = elapsed_s * slots / occupied if self.slots and occupied > slots else elapsed_s
        known = self.service_s
        self.service_s = known + (sample - known) * LEARN if known else sample
        self._learned_at = now

    def reported(
        self, now: float, queue: float, running: float, slots: float, wait_ms: float
    ) -> None:
        """Notes an ORCA report that came with an answer; call it before `done`."""
        self.slots = slots
        self._foreign = max(0.0, queue + running - self.in_flight)
        self._wait_s = wait_ms / 1000.0
        self._reported_at = now

    def occupied(self, now: float) -> float:
        """Requests at the instance, as far as known: own, and the more credible count of
        everybody else's (told by the other workers, or left over in a fading report)."""
        foreign = self._foreign
        if foreign:
            foreign *= max(0.0, 1.0 - (now - self._reported_at) / FADE_S)
        others = self.others
        return self.in_flight + (foreign if foreign > others else others)

    def service(self, now: float, usual_s: float) -> float:
        """Seconds of service, drifting back to `usual_s` while nothing new is learned."""
        known = self.service_s
        if not known:
            return usual_s
        idle = now - self._learned_at - 1.0
        if idle <= 0.0:
            return known
        return usual_s + (known - usual_s) * max(0.0, 1.0 - idle / FORGET_S)

    def delay(self, now: float, usual_s: float) -> float:
        """Expected seconds until one more request would be answered."""
        occupied = self.occupied(now)
        service_s = self.service(now, usual_s)
        slots = self.slots or 1.0
        delay = service_s * (occupied + 1.0) / slots if occupied + 1.0 > slots else service_s
        reported = self._wait_s - (now - self._reported_at) + service_s
        return (reported if reported > delay else delay) / self.weight


def usual_service_s(loads: Sequence[Load]) -> float:
    """The mean of what is known of the service times, 1.0 when nothing is."""
    total, known = 0.0, 0
    for load in loads:
        if load.service_s:
            total += load.service_s
            known += 1
    return total / known if known else 1.0


def choose(balance: str, loads: Sequence[Load], turn: int, now: float) -> int:
    """The index in `loads`, which is not empty, of the instance for one more request.

    `turn` counts up with each choice from a random start: it breaks ties by rotation, is the
    position of `round_robin` and the chance of `random`.
    """
    count = len(loads)
    if count == 1:
        return 0
    if balance == "round_robin":
        return turn % count
    if balance == "random":
        return (turn * _STEP & _MASK) * count >> 64
    usual_s = usual_service_s(loads)
    best, least = 0, (True, 0.0)
    first = turn % count
    for step in range(count):
        index = (first + step) % count
        load = loads[index]
        cost = (load.shunned_until > now, load.delay(now, usual_s))
        if step == 0 or cost < least:
            best, least = index, cost
    return best

"""What do requests say of a canary and of the version beside it?

While a rollout runs on a route its worker counts, by the arm to which a request was *first decided*
and by the canary's share in force at that moment: first attempts that ended, those that failed,
those that were timed, and the slow ones. Whatever a retry or another backend makes of a request
later changes nothing. What was counted goes to the control process a few times a second, as sums
since the start: what is told twice counts once, and what a killed worker had not told is missing.
What it means is judged there.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from gateway.core.splitting import Split
from gateway.telemetry.buckets import BOUNDS
from gateway.wire.messages import JudgedMessage, Judging

CANARY, STABLE = 0, 4
ENDED, FAILED, TIMED, SLOW = range(4)
MOST_KEYS = 20_000
"""Sticky keys with an event, of one worker, rollout and guard: what comes after them is not counted
for either arm. A key takes about 150 bytes."""
GUARDS = {FAILED: "errors", SLOW: "latency"}


class Trial:
    """One request that counts: for which arm, at which share, against which threshold."""

    __slots__ = ("_arm", "_judge", "_key", "_slow_s", "is_over", "share")

    def __init__(self, judge: "Judge", arm: int, share: str, slow_s: float, key: int) -> None:
        self._judge, self._arm, self._key = judge, arm, key
        self._slow_s = slow_s
        self.share = share
        self.is_over = False

    def end(self, failed: bool, seconds: float) -> None:
        """The first attempt is over; `seconds` it took at the instance, 0 where that says
        nothing. Of what comes later nothing counts."""
        if self.is_over:
            return
        self.is_over = True
        judge, arm = self._judge, self._arm
        judge.is_news = True
        row = judge.counts.get(self.share)
        if row is None:
            row = judge.counts[self.share] = [0] * 8
        row[arm + ENDED] += 1
        if failed:
            self._event(row, FAILED)
        elif seconds > 0.0:
            if arm == STABLE:
                bucket = bisect_left(BOUNDS, seconds)
                judge.times[bucket] = judge.times.get(bucket, 0) + 1
            if self._slow_s > 0.0:
                row[arm + TIMED] += 1
                if seconds > self._slow_s:
                    self._event(row, SLOW)

    def _event(self, row: list[int], kind: int) -> None:
        if self._key < 0:
            row[self._arm + kind] += 1
        else:
            self._judge.note_key(GUARDS[kind], self._key, self.share, self._arm)


class Judge:
    """What this worker counts for one rollout.

    `decided` is the trial of the request that was decided last, None for one that does not count;
    `counts`: share → ended, failed, timed and slow of the canary, then of the others; `times`:
    bucket of `telemetry.buckets` → answers of the others; `warmed`: the canary's requests while
    nothing counts yet.
    """

    __slots__ = (
        "_keys", "_share", "_split", "_told", "counts", "decided", "id", "is_news", "slow_s",
        "times", "to", "warmed", "warming",
    )  # fmt: skip

    def __init__(self, told: Judging) -> None:
        self.id, self.to = told["id"], told["to"]
        self.counts: dict[str, list[int]] = {}
        self.times: dict[int, int] = {}
        self.warmed = 0
        self.decided: Trial | None = None
        self.is_news = False
        self._keys: dict[str, dict[int, tuple[str, int]]] = {}
        self._told: dict[str, int] = {}  # keys that this channel was told, by guard
        self._split: Split | None = None
        self._share = ""
        self.take(told)

    def take(self, told: Judging) -> None:
        """What is asked of requests from now on."""
        self.warming = told["warming"]
        self.slow_s = told["slow_s"]

    def decide(self, name: str, split: Split, key: int) -> None:
        """A request fell to backend `name` of `split`, those that can serve; `key` is the hash of
        its sticky key, -1 without."""
        is_canary = name == self.to
        if self.warming:
            self.warmed += is_canary
            self.is_news = True
            self.decided = None
            return
        if split is not self._split:
            self._split, self._share = split, share_of(split, self.to)
        arm = CANARY if is_canary else STABLE
        self.decided = Trial(self, arm, self._share, self.slow_s, key)

    def note_key(self, guard: str, key: int, share: str, arm: int) -> None:
        """The first event of a key is its only one."""
        keys = self._keys.setdefault(guard, {})
        if key not in keys and len(keys) < MOST_KEYS:
            keys[key] = (share, arm)

    def begin(self) -> None:
        """Whoever is told next knows nothing yet."""
        self._told = {}
        self.is_news = True

    def report(self, worker: str) -> JudgedMessage:
        """All that was counted, and the keys that were not told yet."""
        self.is_news = False
        keys: dict[str, list[tuple[int, str, int]]] = {}
        for guard, found in self._keys.items():
            first = self._told.get(guard, 0)
            if len(found) > first:
                fresh = list(found.items())[first:]
                keys[guard] = [(key, share, arm) for key, (share, arm) in fresh]
                self._told[guard] = len(found)
        return {
            "type": "judged",
            "id": self.id,
            "worker": worker,
            "counts": self.counts,
            "times": {str(bucket): count for bucket, count in self.times.items()},
            "warmed": self.warmed,
            "keys": keys,
        }


def share_of(split: Split, to: str) -> str:
    """The canary's weight and that of all, as `10/100`."""
    weights = dict(split.weights)
    return f"{weights.get(to, 0)}/{sum(weights.values())}"


def judges(routes: Mapping[str, Judging], before: Mapping[str, Any]) -> dict[str, Judge]:
    """The judge of each route that has a rollout; one that goes on keeps what it counted."""
    found: dict[str, Judge] = {}
    for route, told in routes.items():
        judge = before.get(route)
        if judge is None or judge.id != told["id"]:
            judge = Judge(told)
        else:
            judge.take(told)
        found[route] = judge
    return found

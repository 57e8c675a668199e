"""What do requests say of a canary and of the version beside it?

While a rollout runs on a route its worker counts, by the arm to which a request was *first decided*
and by the canary's share in force at that moment: first attempts that ended, those that failed,
those that were timed, and the slow ones. Whatever a retry or another backend makes of a request
later changes nothing. What was counted goes to the control process a few times a second, as sums
since the start: what is told twice counts once, and what a killed worker had not told is missing.
What it means is judged there.
"""

import json
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import orjson

from gateway.core.splitting import Split
from gateway.telemetry.buckets import BOUNDS
from gateway.wire.messages import JudgedMessage, Judging

CANARY, STABLE = 0, 4
ENDED, FAILED, TIMED, SLOW = range(4)
MAX_KEYS = 20_000
"""Sticky keys with an event, of one worker, rollout and guard: what comes after them is not counted
for either arm. A key takes about 150 bytes."""
GUARDS = {FAILED: "errors", SLOW: "latency"}
PREDICTIONS = "predictions"
MAX_BODY = 32 << 10
"""Bytes of an answer that is looked at: to read as many takes a tenth of a millisecond."""
MAX_ANSWERS = 200  # kinds of answers that a worker tells apart; what else there is, is one
MAX_NUMBERS = 500  # of a report
MAX_TIMES = 250  # of a report: their 90 % point is as good as that of all, and costs less
OTHER = "other"
_NUMBERS = count()
_GZIP = b"\x1f\x8b"  # how it begins, and no JSON does


class Trial:
    """What counts of a request: its arm, the share at which it was decided, and the threshold that
    was in force. One for all alike: a request that is counted makes no object of its own."""

    __slots__ = ("_judge", "_row", "_slow_s", "arm", "share")
    gathers = False  # whether it wants the answer's body

    def __init__(self, judge: "Judge", arm: int, share: str) -> None:
        self._judge, self.arm, self.share = judge, arm, share
        self._row = judge.counts.setdefault(share, [0] * 8)
        self._slow_s = judge.slow_s

    def gather(self, payload: bytes) -> None:
        """More of the answer's body came."""

    def end(self, failed: bool, seconds: float, is_answer: bool = False) -> None:
        """The first attempt is over; `seconds` it took at the instance, 0 where that says
        nothing; `is_answer`: its body is whole and none of an error."""
        judge, row, arm = self._judge, self._row, self.arm
        judge.is_news = True
        row[arm] += 1
        if failed:
            self._event(FAILED)
        elif seconds > 0.0:
            if arm and len(judge.seconds) < MAX_TIMES:
                judge.seconds.append(seconds)
            if self._slow_s:
                row[arm + TIMED] += 1
                if seconds > self._slow_s:
                    self._event(SLOW)

    def refuse(self) -> None:
        """The instance takes no more now: how well it would have answered is not known."""
        judge = self._judge
        judge.is_news = True
        judge.refused.setdefault(self.share, [0, 0])[1 if self.arm else 0] += 1

    def leave(self, seconds: float) -> None:
        """Nobody waits any more for what the instance has had for `seconds`. What would have come
        of it is not known; that it was slow is, where it was by then."""
        if self._slow_s and seconds > self._slow_s:
            self._judge.is_news = True
            self._row[self.arm + TIMED] += 1
            self._event(SLOW)

    def _event(self, kind: int) -> None:
        self._row[self.arm + kind] += 1


class OwnTrial(Trial):
    """The trial of one request alone: of a sticky key, or one whose answer is looked at."""

    __slots__ = ("_body", "_key", "_parts", "_size")
    gathers = True

    def __init__(self, judge: "Judge", arm: int, share: str, key: int) -> None:
        super().__init__(judge, arm, share)
        self._key, self._parts = key, judge.parts
        self._body: list[bytes] | None = [] if judge.field else None
        self._size = 0

    def gather(self, payload: bytes) -> None:
        """More of the answer's body came."""
        if self._body is not None:
            self._size += len(payload)
            if self._size <= MAX_BODY:
                self._body.append(payload)
            else:
                self._body = None

    def end(self, failed: bool, seconds: float, is_answer: bool = False) -> None:
        super().end(failed, seconds)
        if is_answer and self._body is not None:
            self._answered(b"".join(self._body))

    def _answered(self, body: bytes) -> None:
        """Counts which answer it was."""
        judge = self._judge
        value = value_at(body, judge.path)
        kind = type(value)
        if kind is int or kind is float:
            if self.arm and len(judge.numbers) < MAX_NUMBERS:
                judge.numbers.append(float(value))
            edges, parts = self._parts
            answer = parts[bisect_left(edges, value)] if edges else None
        else:
            answer = category_of(value)
        if answer is None:
            return
        if self._key < 0:
            judge.note_answer(answer, self.share, self.arm)
        else:
            judge.note_key(PREDICTIONS, self._key, self.share, self.arm, answer)

    def _event(self, kind: int) -> None:
        if self._key < 0:
            super()._event(kind)
        else:
            self._judge.note_key(GUARDS[kind], self._key, self.share, self.arm)


class Judge:
    """What this worker counts for one rollout.

    `decided` is the trial of the request that was decided last, None for one that does not count;
    `counts`: share → ended, failed, timed and slow of the canary, then of the others; `seconds`:
    what some answers of the others took since the last report; `warmed`: the canary's requests
    while nothing counts yet; `refused`: share → those that the canary refused as
    busy, and the others; `answers`: kind of answer → share → how many of the canary, and of the
    others; `numbers`: some that the others answered since the last report.
    """

    __slots__ = (
        "_canary", "_keys", "_number", "_share", "_split", "_stable", "_times", "_told", "answers",
        "counts", "decided", "field", "id", "is_news", "numbers", "parts", "path", "refused",
        "seconds", "slow_s", "to", "warmed", "warming",
    )  # fmt: skip

    def __init__(self, told: Judging) -> None:
        self.id, self.to = told["id"], told["to"]
        self.counts: dict[str, list[int]] = {}
        self.seconds: list[float] = []
        self._times: Counter[int] = Counter()
        self.warmed = 0
        self.refused: dict[str, list[int]] = {}
        self.decided: Trial | None = None
        self.is_news = False
        self.field = told["field"]
        self.path = [
            part.replace("~1", "/").replace("~0", "~") for part in self.field.split("/")[1:]
        ]
        self.answers: dict[str, dict[str, list[int]]] = {}
        self.numbers: list[float] = []
        self._keys: dict[str, dict[int, tuple[str, int, str]]] = {}
        # Where one of several gateways drives it again, what was counted before stays told.
        self._number = next(_NUMBERS)
        self._told: dict[str, int] = {}  # keys that this channel was told, by guard
        self._split: Split | None = None
        self._share = ""
        self._canary: Trial | None = None
        self._stable: Trial | None = None
        self.take(told)

    def take(self, told: Judging) -> None:
        """What is asked of requests from now on."""
        self.warming = told["warming"]
        self.slow_s = told["slow_s"]
        self.parts = (told["edges"], parts_of(told["edges"]))
        self._split = None  # trials are made anew, with what is asked now

    def decide(self, name: str, split: Split, key: int) -> None:
        """A request fell to backend `name` of `split`, those that can serve; `key` is the hash of
        its sticky key, -1 without."""
        is_canary = name == self.to
        if self.warming:
            self.warmed += is_canary
            self.is_news = True
            return
        if split is not self._split:
            self._split, self._share = split, share_of(split, self.to)
            self._canary = Trial(self, CANARY, self._share)
            self._stable = Trial(self, STABLE, self._share)
        if key < 0 and not self.field:
            self.decided = self._canary if is_canary else self._stable
        else:
            self.decided = OwnTrial(self, CANARY if is_canary else STABLE, self._share, key)

    def note_key(self, guard: str, key: int, share: str, arm: int, answer: str = "") -> None:
        """The first event of a key is its only one."""
        keys = self._keys.setdefault(guard, {})
        if key not in keys and len(keys) < MAX_KEYS:
            keys[key] = (share, arm, answer)

    def note_answer(self, answer: str, share: str, arm: int) -> None:
        """One more answer of that kind."""
        by_share = self.answers.get(answer)
        if by_share is None:
            if len(self.answers) >= MAX_ANSWERS:
                answer = OTHER
            by_share = self.answers.setdefault(answer, {})
        row = by_share.get(share)
        if row is None:
            row = by_share[share] = [0, 0]
        row[1 if arm else 0] += 1

    def forget(self) -> None:
        """Nothing is decided of the next request yet."""
        # An assignment where it is asked for would have the compiler believe it behind `choose`.
        self.decided = None

    def begin(self) -> None:
        """Whoever is told next knows nothing yet."""
        self._told = {}
        self.is_news = True

    def report(self, worker: str) -> JudgedMessage:
        """All that was counted, and the keys that were not told yet: under a name of its own, of
        those of `worker`."""
        self.is_news = False
        keys: dict[str, list[tuple[int, str, int, str]]] = {}
        numbers, self.numbers = self.numbers, []
        seconds, self.seconds = self.seconds, []
        self._times.update(bisect_left(BOUNDS, each) for each in seconds)
        for guard, found in self._keys.items():
            first = self._told.get(guard, 0)
            if len(found) > first:
                fresh = list(found.items())[first:]
                keys[guard] = [(key, *event) for key, event in fresh]
                self._told[guard] = len(found)
        return {
            "type": "judged",
            "id": self.id,
            "worker": f"{worker}-{self._number}",
            "counts": self.counts,
            "times": {str(bucket): count for bucket, count in self._times.items()},
            "warmed": self.warmed,
            "refused": self.refused,
            "keys": keys,
            "answers": self.answers,
            "numbers": numbers,
        }


def is_refusal(status: int | None, failed: bool) -> bool:
    """Whether an answer of `status` says that its instance takes no more now: 429, or a 503 that
    is no failure, as it has a Retry-After."""
    return status == 429 or (status == 503 and not failed)


def value_at(body: bytes, path: Sequence[str]) -> Any:
    """What stands at `path` in the JSON of `body`, which may be compressed by gzip; Ellipsis where
    nothing does, or it is none."""
    try:
        if body.startswith(_GZIP):
            body = zlib.decompressobj(31).decompress(body, MAX_BODY)
        value: Any = orjson.loads(body)
    except (ValueError, zlib.error):
        return ...
    for part in path:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isascii() and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else ...
        else:
            return ...
    return value


def category_of(value: Any) -> str | None:
    """The kind of answer that `value` is, one that is no number; None where it is none at all."""
    match value:
        case str():
            return json.dumps(value[:64], ensure_ascii=False)
        case bool() | None:
            return json.dumps(value)
    return None


def parts_of(edges: Sequence[float]) -> list[str]:
    """What the parts are called into which `edges` divide numbers, one more than there are edges:
    by name where these are whole numbers, else by place, so that edges which are learned anew tell
    the same parts apart."""
    if all(edge == int(edge) for edge in edges):
        return [*(f"≤ {edge:g}" for edge in edges), *(f"> {edge:g}" for edge in edges[-1:])]
    return [f"part {number} of {len(edges) + 1}" for number in range(1, len(edges) + 2)]


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

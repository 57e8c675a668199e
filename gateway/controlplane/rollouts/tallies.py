"""What was counted for a rollout, by all workers together?

Sums of what each worker said last, by its name: what is told twice counts once, and who ends keeps
what it told. Of sticky keys the first event is the only one, whoever tells it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.core.judging import Category, Events
from gateway.telemetry.buckets import quantiles
from gateway.wire.messages import JudgedMessage

ENDED, FAILED, TIMED, SLOW = range(4)
STABLE = 4  # where in a row the same counts of the stable arm begin
ASKED = {"errors": (ENDED, FAILED), "latency": (TIMED, SLOW)}
"""Guard → where in a row its requests are counted, and its events."""

MIN_TIMES = 50  # from which a quantile is told
INTERVAL_S = 5.0
MAX_NUMBERS = 5000  # of answers, kept for one quantile
MAX_NAMED = 64  # workers that are told apart; older ones are summed up


class Tallies:
    """The counts of one rollout."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, list[int]]] = {}
        self._warmed: dict[str, int] = {}
        self._refused: dict[str, dict[str, list[int]]] = {}
        self._keys: dict[str, dict[int, tuple[str, int, str]]] = {}
        self._key_events: dict[tuple[str, str], dict[str, list[int]]] = {}
        self._answers: dict[str, dict[str, dict[str, list[int]]]] = {}
        self._places: dict[str, int] = {}  # kind of answer → how many were met before
        self._met: dict[str, Category] | None = None  # what `answers` gives, until more is told
        self._numbers: list[float] = []
        self._numbers_since = 0.0
        self.edges: tuple[float, ...] = ()  # of deciles, as the others answered before
        self._times: dict[str, Counter[int]] = {}
        self._ended: set[str] = set()
        self._before: Counter[int] = Counter()
        self._since = 0.0
        self.slow_s = 0.0  # the threshold now, of the interval before; 0: not known

    def hear(self, told: JudgedMessage) -> None:
        """Takes what a worker says."""
        worker = told["worker"]
        if worker in self._ended:
            return
        self._met = None
        self._counts.pop(worker, None)  # who was heard of last comes last
        self._counts[worker] = {share: [*row] for share, row in told["counts"].items()}
        self._warmed[worker] = told["warmed"]
        self._refused[worker] = {share: [*row] for share, row in told["refused"].items()}
        self._times[worker] = Counter({int(k): count for k, count in told["times"].items()})
        for guard, keys in told["keys"].items():
            known = self._keys.setdefault(guard, {})
            for key, share, arm, answer in keys:
                if key not in known:
                    known[key] = (share, arm, answer)
                    self._note_key(guard, share, arm, answer)
        self._answers[worker] = {
            answer: {share: [*row] for share, row in by_share.items()}
            for answer, by_share in told["answers"].items()
        }
        for answer in told["answers"]:
            self._places.setdefault(answer, len(self._places))
        self._numbers += told["numbers"][: MAX_NUMBERS - len(self._numbers)]
        if len(self._counts) > 2 * MAX_NAMED:
            self._sum_up()

    def _note_key(self, guard: str, share: str, arm: int, answer: str) -> None:
        """The first event of a key, which is its only one: added to those of its kind."""
        if answer:
            self._places.setdefault(answer, len(self._places))
        rows = self._key_events.setdefault((guard, answer), {})
        rows.setdefault(share, [0, 0])[1 if arm else 0] += 1

    def _sum_up(self) -> None:
        """Workers that nobody has heard of for longest have ended, and are believed no more."""
        total = self._counts.pop("", {})
        for worker in list(self._counts)[:MAX_NAMED]:
            for share, row in self._counts.pop(worker).items():
                before = total.get(share, [0] * 8)
                total[share] = [a + b for a, b in zip(before, row, strict=True)]
            self._warmed[""] = self._warmed.get("", 0) + self._warmed.pop(worker, 0)
            _add(self._refused, {"": self._refused.pop(worker, {})})
            self._times.pop(worker, None)
            _add(self._answers.setdefault("", {}), self._answers.pop(worker, {}))
            self._ended.add(worker)
        self._counts[""] = total

    @property
    def warmed(self) -> int:
        """The canary's requests that taught nothing."""
        return sum(self._warmed.values())

    @property
    def ended(self) -> int:
        """The canary's requests that were judged."""
        return sum(row[ENDED] for _, row in self._rows())

    @property
    def compared(self) -> int:
        """The requests among them that another version could have got."""
        return sum(row[ENDED] for share, row in self._rows() if _part(share) < 1.0)

    def refused(self, *, alone: bool) -> int:
        """The canary's requests that it refused as busy, which are none of those judged; `alone`:
        also those that no other version could have got."""
        by_worker = self._refused.values()
        return sum(
            row[0] for each in by_worker for share, row in each.items() if alone or _part(share) < 1
        )

    @property
    def beside(self) -> tuple[int, int]:
        """How many requests the others refused as busy, and how many of theirs were judged."""
        refused = sum(row[1] for each in self._refused.values() for row in each.values())
        return refused, self._sum(STABLE + ENDED)

    def requests(self, guard: str) -> tuple[int, int]:
        """Of how many requests of either arm `guard` knows what became."""
        at, _ = ASKED[guard]
        return self._sum(at), self._sum(STABLE + at)

    def events(self, guard: str) -> Events:
        """The events of `guard`, by the canary's share."""
        _, at = ASKED[guard]
        found: dict[str, list[int]] = {}
        for share, row in self._rows():
            events = found.setdefault(share, [0, 0])
            events[0] += row[at]
            events[1] += row[STABLE + at]
        for share, row in self._key_events.get((guard, ""), {}).items():
            before = found.get(share, [0, 0])
            found[share] = [before[0] + row[0], before[1] + row[1]]
        return _by_part(found)

    def answers(self) -> Mapping[str, Category]:
        """Each kind of answer that was met, in the order in which they were."""
        if self._met is None:  # a thousandth of a second for a hundred kinds
            self._met = self._answers_met()
        return self._met

    def _answers_met(self) -> dict[str, Category]:
        met: dict[str, dict[str, list[int]]] = {}
        for told in self._answers.values():
            _add(met, told)
        for (guard, answer), rows in self._key_events.items():
            if guard == "predictions":
                _add(met, {answer: rows})
        return {
            answer: Category.of(place, _by_part(met.get(answer, {})))
            for answer, place in self._places.items()
        }

    def learn_numbers(self, now: float) -> None:
        """Deciles for the interval that begins, by what the other arm answered in the last one."""
        if now - self._numbers_since < INTERVAL_S or len(self._numbers) < MIN_TIMES:
            return
        ordered = sorted(self._numbers)
        points = (ordered[len(ordered) * tenth // 10] for tenth in range(1, 10))
        self.edges = tuple(dict.fromkeys(points))
        self._numbers, self._numbers_since = [], now

    def learn(self, now: float, slower_than: float) -> None:
        """A threshold for the interval that begins, by the answers of the other arm in the one
        that ends: once it was long enough and had enough of them."""
        if now - self._since < INTERVAL_S:
            return
        times = sum(self._times.values(), Counter())
        fresh = times - self._before
        if fresh.total() >= MIN_TIMES:
            self.slow_s = round(slower_than * quantiles(fresh, [0.9])[0], 6)
            self._before, self._since = times, now

    def begin(self, now: float) -> None:
        """The first interval begins."""
        self._since = self._numbers_since = now

    def _rows(self) -> Iterator[tuple[str, Sequence[int]]]:
        for counts in self._counts.values():
            yield from counts.items()

    def _sum(self, at: int) -> int:
        return sum(row[at] for _, row in self._rows())

    def as_json(self) -> dict[str, Any]:
        """What is kept: enough to go on with the same evidence."""
        return {
            "counts": self._counts,
            "warmed": self._warmed,
            "refused": self._refused,
            "ended": sorted(self._ended),
            "slow_s": self.slow_s,
            "keys": {
                guard: [[key, *event] for key, event in keys.items()]
                for guard, keys in self._keys.items()
            },
            "answers": self._answers,
            "places": self._places,
            "edges": self.edges,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Tallies":
        """What `as_json` gave, as it was; KeyError, TypeError or ValueError if it is not that."""
        found = cls()
        found._counts = {name: dict(counts) for name, counts in kept["counts"].items()}
        found._warmed = dict(kept["warmed"])
        found._refused = {
            name: {share: [row, 0] if isinstance(row, int) else row for share, row in each.items()}
            for name, each in kept.get("refused", {}).items()
        }
        found._ended = set(kept["ended"])
        found.slow_s = kept["slow_s"]
        found._places = dict(kept["places"])
        for guard, keys in kept["keys"].items():
            found._keys[guard] = {key: (share, arm, answer) for key, share, arm, answer in keys}
            for _, share, arm, answer in keys:
                found._note_key(guard, share, arm, answer)
        _add_all(found._answers, kept["answers"])
        found.edges = tuple(kept["edges"])
        return found


Answers = Mapping[str, Mapping[str, Sequence[int]]]


def _add(to: dict[str, dict[str, list[int]]], more: Answers) -> None:
    """Adds `more` of kind → share → canary and others to what there is."""
    for answer, by_share in more.items():
        rows = to.setdefault(answer, {})
        for share, row in by_share.items():
            before = rows.get(share, [0, 0])
            rows[share] = [before[0] + row[0], before[1] + row[1]]


def _add_all(to: dict[str, dict[str, dict[str, list[int]]]], kept: Mapping[str, Answers]) -> None:
    for worker, answers in kept.items():
        _add(to.setdefault(worker, {}), answers)


def _by_part(rows: Mapping[str, Sequence[int]]) -> dict[float, tuple[int, int]]:
    """Share as a number → events of the canary and of the others; shares may be alike."""
    found: dict[float, tuple[int, int]] = {}
    for share, (canary, stable) in rows.items():
        part = _part(share)
        before = found.get(part, (0, 0))
        found[part] = (before[0] + canary, before[1] + stable)
    return found


def _part(share: str) -> float:
    weight, _, total = share.partition("/")
    return int(weight) / int(total) if int(total) else 0.0

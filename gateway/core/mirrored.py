"""What is known of a mirror, of all pairs of answers so far?

Counts of pairs that agree and differ, where they differ and by how much, what the stable version
has of differences with itself, and the last differing pairs. Where tolerances are learnt, pairs
that come before enough is known wait for it: none is judged by a guess. A pure sum: pairs in,
counts out; the same pairs in the same order give the same.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add, sub
from typing import Any

from gateway.core.agreement import CONFIDENCE, interval
from gateway.core.comparing import MISSING, Answer, Compare, Comparer, Difference
from gateway.core.noise import MAX_FIELDS, Noise

Json = Any
MAX_WAITING = 100  # pairs for which a tolerance is not known yet
MAX_SHOWN = 20  # differences of one sample
MAX_LENGTH_SHOWN = 200  # characters of a value
MAX_KEYS = 20_000
"""Sticky keys of which one pair counts as evidence; what comes after them counts as none."""
OTHER = "other"
"""The fields beyond those that are told apart."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request, and what the stable version answered when asked again. `key` is
    the hash of a sticky key, -1 without one; `time` and `request` tell a person which it was."""

    stable: Answer
    mirror: Answer
    again: Answer | None = None
    key: int = -1
    time: str = ""
    request: str = ""


@dataclass(slots=True)
class FieldCount:
    """In how many pairs a field differs; of numbers the sum and the most of what they differ by."""

    differ: int = 0
    numbers: int = 0
    sum: float = 0.0
    most: float = 0.0

    def note(self, by: list[float]) -> None:
        """One more pair that differs here; `by` are its differing numbers."""
        self.differ += 1
        if by:
            self.numbers += len(by)
            self.sum += sum(by)
            self.most = max(self.most, *by)

    def shown(self, pairs: int) -> Json:
        return {
            "differ": self.differ,
            "agreement": _part(pairs - self.differ, pairs),
            "by": None
            if not self.numbers
            else {"mean": _short(self.sum / self.numbers), "max": _short(self.most)},
        }


@dataclass(slots=True)
class Counts:
    """Of pairs: all, and those that differ; of those whose request the stable version answered
    twice: all, those where the mirror differs, and those where it differs from itself."""

    pairs: int = 0
    differ: int = 0
    twice: int = 0
    twice_differ: int = 0
    noise_differ: int = 0

    def note(self, differs: bool, noise_differs: bool | None) -> None:
        self.pairs += 1
        self.differ += differs
        if noise_differs is not None:
            self.twice += 1
            self.twice_differ += differs
            self.noise_differ += noise_differs

    def plus(self, more: "Counts") -> "Counts":
        """Both together."""
        return Counts(*map(add, self.as_list(), more.as_list()))

    def minus(self, less: "Counts") -> "Counts":
        """What is counted here beyond `less`."""
        return Counts(*map(sub, self.as_list(), less.as_list()))

    def as_list(self) -> list[int]:
        return [self.pairs, self.differ, self.twice, self.twice_differ, self.noise_differ]


@dataclass(slots=True)
class Mirrored:
    """All that is known of one mirror. `judged` are the counts in which a sticky key has one pair;
    `skipped` the pairs that waited for a tolerance until there was no room for them."""

    compare: Compare
    counts: Counts = field(default_factory=Counts)
    judged: Counts = field(default_factory=Counts)
    skipped: int = 0
    fields: dict[str, FieldCount] = field(default_factory=dict)
    noise_fields: dict[str, int] = field(default_factory=dict)
    noise: Noise = field(default_factory=Noise)
    samples: deque[Json] = field(default_factory=deque)
    _waiting: deque[Pair] = field(default_factory=deque)
    _keys: set[int] = field(default_factory=set)
    _comparer: Comparer = field(init=False)

    def __post_init__(self) -> None:
        self._comparer = Comparer(self.compare)
        for at, rule in self.compare.fields:
            if rule.kind != "ignore":
                self.fields.setdefault(at, FieldCount())
        self.samples = deque(self.samples, self.compare.samples)

    @property
    def waiting(self) -> int:
        """Pairs that are judged as soon as a tolerance is known."""
        return len(self._waiting)

    def take(self, pair: Pair) -> None:
        """One more pair."""
        learns = self.compare.is_learnt and self.compare.noise
        if learns and pair.again is not None:
            self.noise.pairs += 1
            self._comparer.numbers(pair.stable, pair.again, self.noise.note)
        if learns and not self.noise.is_known:
            self._waiting.append(pair)
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self.skipped += 1
            return
        while self._waiting:
            self._judge(self._waiting.popleft())
        self._judge(pair)

    def _judge(self, pair: Pair) -> None:
        found = self._comparer.differences(pair.stable, pair.mirror, self.noise.alike)
        noise: list[Difference] | None = None
        if pair.again is not None:
            noise = self._comparer.differences(pair.stable, pair.again, self.noise.alike)
            for name in {each.field for each in noise}:
                name = name if len(self.noise_fields) < MAX_FIELDS else OTHER
                self.noise_fields[name] = self.noise_fields.get(name, 0) + 1
        counts = [self.counts]
        if self._is_first(pair.key):
            counts.append(self.judged)
        for each in counts:
            each.note(bool(found), None if noise is None else bool(noise))
        if found:
            self._note(pair, found)

    def _is_first(self, key: int) -> bool:
        """Whether this is the first pair of a key; one without a key stands for itself."""
        if key < 0:
            return True
        if key in self._keys or len(self._keys) >= MAX_KEYS:
            return False
        self._keys.add(key)
        return True

    def _note(self, pair: Pair, found: list[Difference]) -> None:
        by_field: dict[str, list[float]] = {}
        for each in found:
            by = by_field.setdefault(each.field, [])
            if each.by is not None:
                by.append(each.by)
        for name, by in by_field.items():
            if name not in self.fields and len(self.fields) >= MAX_FIELDS:
                name = OTHER
            self.fields.setdefault(name, FieldCount()).note(by)
        if self.compare.samples:
            differs = {
                each.pointer: {
                    side: _shown(value)
                    for side, value in (("stable", each.stable), ("mirror", each.mirror))
                    if value is not MISSING
                }
                for each in found[:MAX_SHOWN]
            }
            sample = {"time": pair.time, "request_id": pair.request, "differs": differs}
            self.samples.append({**sample, "more": max(0, len(found) - MAX_SHOWN)})

    # -- as it is told and kept

    def shown(self) -> dict[str, Json]:
        """What a person is told of it."""
        counts = self.counts
        agree = counts.pairs - counts.differ
        return {
            "pairs": counts.pairs,
            "agreement": _part(agree, counts.pairs),
            "interval": _interval(agree, counts.pairs),
            "confidence": CONFIDENCE,
            "noise_floor": None
            if not self.compare.noise
            else {
                "pairs": counts.twice,
                "agreement": _part(counts.twice - counts.noise_differ, counts.twice),
                "interval": _interval(counts.twice - counts.noise_differ, counts.twice),
                "fields": {
                    name: {
                        "differ": differ,
                        "agreement": _part(counts.twice - differ, counts.twice),
                    }
                    for name, differ in self.noise_fields.items()
                },
            },
            "fields": {name: each.shown(counts.pairs) for name, each in self.fields.items()},
            "tolerances": {at: _short(by) for at, by in self.noise.tolerances().items()},
            "learning": self.waiting,
            "samples": [*reversed(self.samples)],
        }

    def as_json(self) -> dict[str, Json]:
        """Enough to go on from; pairs that wait and keys that were met are not."""
        return {
            "counts": self.counts.as_list(),
            "judged": self.judged.as_list(),
            "skipped": self.skipped,
            "fields": {
                name: [each.differ, each.numbers, each.sum, each.most]
                for name, each in self.fields.items()
            },
            "noise_fields": self.noise_fields,
            "noise": self.noise.as_json(),
            "samples": list(self.samples),
            "shown": self.shown(),
        }

    @classmethod
    def from_json(cls, compare: Compare, kept: Mapping[str, Json]) -> "Mirrored":
        """What `as_json` gave, for the same comparison."""
        return cls(
            compare,
            Counts(*kept["counts"]),
            Counts(*kept["judged"]),
            kept["skipped"],
            {name: FieldCount(*each) for name, each in kept["fields"].items()},
            dict(kept["noise_fields"]),
            Noise.from_json(kept["noise"]),
            deque(kept["samples"]),
        )


def _part(some: int, of: int) -> float | None:
    return round(some / of, 6) if of else None


def _interval(agree: int, pairs: int) -> list[float]:
    return [round(each, 6) for each in interval(agree, pairs)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _shown(value: Json) -> Json:
    """`value` as it is, or the beginning of its text where it is long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_LENGTH_SHOWN:
        return text[:MAX_LENGTH_SHOWN] + "…"
    return value

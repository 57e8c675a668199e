"""What is the sum of each series over all books, and what of it has just changed?

Whoever reads a book (`watch.book_reader`) adds here; what people want to know the rates of is told
one by one as well.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.telemetry.catalogue import Gone, retired_labels
from gateway.telemetry.metrics import CONSUMED, REQUEST, REQUESTS
from gateway.telemetry.series import TOTAL, Labels

Key = int | Labels
"""What is counted within a series: a bucket, ONE, TOTAL (seconds), or further labels."""

Counts = dict[Key, int | float]

FOLLOWED: Final = frozenset({REQUESTS, REQUEST, CONSUMED})
"""What is told one by one; of a histogram its buckets."""


@dataclass(slots=True)
class Tally:
    """The counts of one series over all books; another `version` whenever one changed."""

    counts: dict[int | Labels, int | float] = field(default_factory=dict)
    version: int = 0

    @property
    def buckets(self) -> Counter[int]:
        """How many were counted in each bucket of a histogram."""
        return Counter({k: int(n) for k, n in self.counts.items() if isinstance(k, int) and k >= 0})


class Change:
    """So much more was counted under `key` of one series since the last look."""

    __slots__ = ("key", "labels", "metric", "more")

    def __init__(self, metric: str, labels: Labels, key: Key, more: int | float) -> None:
        self.metric = metric
        self.labels = labels
        self.key = key
        self.more = more


class Tallies:
    """The tallies of all `series`, by metric and labels, and the `changes` of this look."""

    def __init__(self) -> None:
        self.series: dict[str, dict[Labels, Tally]] = {}
        self.changes: list[Change] = []
        self.version = 0
        self.removals = 0
        """How often tallies were taken out: whoever holds one asks for it anew then."""
        self._empty: list[tuple[str, Labels, Key]] = []

    def begin(self) -> None:
        """Begins a step of a look, whose changes have another version than what is shown by now."""
        self.version += 1

    def end(self) -> None:
        """Ends the look."""
        for metric, labels, key in self._empty:  # folded into another series
            series = self.series[metric]
            counts: Counts = series[labels].counts if labels in series else {}
            if not any(counts.values()):
                series.pop(labels, None)
                self.removals += 1
            elif not counts.get(key, 1):
                del counts[key]
        self._empty = []

    def told(self) -> list[Change]:
        """What was told since the last time that this was asked."""
        changes, self.changes = self.changes, []
        return changes

    def tally(self, metric: str, labels: Labels) -> Tally:
        """The tally of that series, a new one if there was none."""
        series = self.series.setdefault(metric, {})
        found = series.get(labels)
        if found is None:
            found = series[labels] = Tally()
        return found

    def add(self, metric: str, labels: Labels, key: Key, more: int | float) -> None:
        """Counts so much more, which is less where it is now counted elsewhere."""
        tally = self.tally(metric, labels)
        tally.version = self.version
        count = tally.counts.get(key, 0) + more
        tally.counts[key] = count
        if not count:
            self._empty.append((metric, labels, key))
        if metric in FOLLOWED and key != TOTAL:
            self.changes.append(Change(metric, labels, key, more))

    def rename(self, retired: Mapping[Gone, str]) -> None:
        """Moves the counts of what is `retired` to the name that it is counted as."""
        self.version += 1
        self.removals += 1
        for metric, series in self.series.items():
            for labels in list(series):
                into = retired_labels(metric, labels, retired)
                if into is not None:
                    counts = series.pop(labels).counts
                    tally = series.setdefault(into, Tally())
                    tally.version = self.version
                    for key, count in counts.items():
                        tally.counts[key] = tally.counts.get(key, 0) + count

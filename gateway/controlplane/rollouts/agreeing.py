"""How often did the mirror of a canary differ while a rollout ran?

Pairs are counted for the mirror, which was there before the rollout and goes on after it. Here are
those since it began: what was counted before says nothing, as the canary may have been mended
meanwhile. Of a comparison that was not looked at before, as that of another gateway which goes on
with the rollout, those count that come from then on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.agreement import log_evidence_of_disagreement
from gateway.core.mirrored import Counts
from gateway.core.rollout import Guard, Judged, judged

Found = tuple[str, Counts | None, bool]
"""Which comparison runs, what it has counted, None where that is not known yet, and whether the
stable version is asked twice."""
Ask = Callable[[str, str], Found | None]
"""(route, canary) → the comparison of its answers; None where none runs."""


@dataclass(slots=True)
class Agreement:
    """The pairs of one rollout: their sum, and what the comparison `id` had counted when it was
    looked at last."""

    id: str = ""
    sum: Counts = field(default_factory=Counts)
    last: Counts = field(default_factory=Counts)
    twice: bool = False

    def begin(self, found: Found | None) -> None:
        """The rollout begins: what was counted by now is none of its."""
        if found is not None:
            self.id, counts, self.twice = found
            self.last = replace(counts or Counts())

    def hear(self, found: Found | None) -> bool:
        """Takes what was counted since the last look; whether there was anything."""
        if found is None:
            return False
        id_, counts, self.twice = found
        if counts is None:
            return False
        if id_ != self.id:
            self.id, self.last = id_, counts
        elif counts.pairs < self.last.pairs:
            self.last = Counts()
        more = counts.minus(self.last)
        self.last = replace(counts)
        if more == Counts():
            return False
        self.sum = self.sum.plus(more)
        return True

    def judge(self, guard: Guard, has_failed: bool) -> Judged:
        """What the guard makes of it. Its events are pairs that differ; those of the stable arm
        pairs of its answers to the same question."""
        counts = self.sum
        twice = (counts.twice_differ, counts.noise_differ) if self.twice else None
        log_e = log_evidence_of_disagreement(counts.differ, counts.pairs, guard.at_least, twice)
        stable = counts.noise_differ, counts.twice
        return judged(guard, log_e, (counts.differ, counts.pairs), stable, has_failed)

    def as_json(self) -> dict[str, Any]:
        """What is kept: enough to go on with the same evidence."""
        sums = {"sum": self.sum.as_list(), "last": self.last.as_list()}
        return {"id": self.id, "twice": self.twice, **sums}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Agreement":
        """What `as_json` gave; of a rollout that knew none, nothing."""
        if not kept:
            return cls()
        return cls(kept["id"], Counts(*kept["sum"]), Counts(*kept["last"]), kept["twice"])

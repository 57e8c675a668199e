"""How much does a model differ from itself (the noise in a comparison of mirrors)?

The stable version is asked twice; what its two answers differ by in a number is noise, and a
mirror that differs by no more than a few times the most of it is not different. Differences are
measured in parts of (the value + the mean of the field): noise that grows with the value and noise
that does not are both seen, and a value near zero forgives nothing. Learnt for each field, the
indices of lists taken together. No clock, no chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MARGIN = 4.0
"""How many times the most that was seen. Of 20 pairs of a Gaussian noise the most is below 1.27 of
its deviations in one case of a hundred; five of them are exceeded once in two million."""
ROUNDING = 1e-5
"""What no noise need be seen for: float32 after a thousand operations in another order, as another
batch size or another processor makes it (torch.testing.assert_close allows as much)."""
ENOUGH = 20  # pairs of the stable version with itself, before a tolerance is believed
MAX_FIELDS = 200  # that are told apart; what comes later is one


@dataclass(slots=True)
class _Field:
    sum: float = 0.0
    count: int = 0
    most: float = 0.0

    def part(self, value: float, other: float) -> float:
        """The difference, in parts of what is usual here."""
        size = abs(value) + (self.sum / self.count if self.count else abs(value))
        return abs(value - other) / size if size else (0.0 if value == other else float("inf"))


class Noise:
    """What was learnt. `pairs`: how many pairs of the stable version with itself were."""

    __slots__ = ("_fields", "pairs")

    def __init__(self) -> None:
        self._fields: dict[str, _Field] = {}
        self.pairs = 0

    @property
    def is_known(self) -> bool:
        """Whether there was enough to learn from."""
        return self.pairs >= ENOUGH

    def note(self, field: str, value: float, other: float) -> None:
        """Two values that the stable version gave for the same request."""
        known = self._fields.get(field)
        if known is None:
            known = self._fields[field if len(self._fields) < MAX_FIELDS else ""] = _Field()
        known.sum += abs(value)
        known.count += 1
        known.most = max(known.most, known.part(value, other))

    def alike(self, field: str, value: float, other: float) -> bool:
        """Whether a mirror's `other` is as near to `value` as the stable version to itself."""
        known = self._fields.get(field) or self._fields.get("") or _NOTHING
        return known.part(value, other) <= max(ROUNDING, MARGIN * known.most)

    def tolerances(self) -> dict[str, float]:
        """Field → how much a value of usual size may differ by."""
        return {
            field: max(ROUNDING, MARGIN * each.most) * 2 * each.sum / each.count
            for field, each in self._fields.items()
            if each.count
        }

    def as_json(self) -> dict[str, Any]:
        fields = {at: [each.sum, each.count, each.most] for at, each in self._fields.items()}
        return {"pairs": self.pairs, "fields": fields}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Noise":
        """What `as_json` gave."""
        found = cls()
        found.pairs = kept["pairs"]
        found._fields = {at: _Field(*each) for at, each in kept["fields"].items()}
        return found


_NOTHING = _Field()

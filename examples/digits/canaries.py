"""Two versions of the digits that are worse, for a rollout to find out.

`Broken` fails for one digit of ten and `Slow` takes longer; both read as well as the CNN. A rollout
(docs/rollouts.md) leads the traffic to that by itself, and away from these.
"""

import time
from typing import Any, ClassVar

from examples.digits.models import Cnn, Reading

BAD_DIGIT = 7
PAUSE_S = 0.05


class Broken(Cnn):
    """Reads all digits but one: for that it answers 500."""

    example: ClassVar[dict[str, Any] | None] = None  # that of the others is a seven

    def encode_response(self, probabilities: list[float]) -> Reading:
        reading = super().encode_response(probabilities)
        if reading["digit"] == BAD_DIGIT:
            raise ValueError(f"cannot read a {BAD_DIGIT}")
        return reading


class Slow(Cnn):
    """Takes a moment longer for each batch."""

    def predict(self, scans: list[list[list[float]]]) -> list[list[float]]:
        time.sleep(PAUSE_S)
        return super().predict(scans)

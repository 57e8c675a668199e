"""How long will a batch of n take, and so: how long must the next request wait?

Fits seconds = per_item · n + fixed to the batches seen, by least squares with exponentially
fading weights, so that a model which slows down is believed soon. It refuses to know about
queues or clocks: durations come in, estimates go out.
"""

from dataclasses import dataclass
from math import ceil

FADE = 0.95  # of the weight of all earlier batches, at each new one: about the last twenty


@dataclass(slots=True)
class Pace:
    """What has been learned; empty until the first batch."""

    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_s: float = 0.0
    sum_ns: float = 0.0
    batches: int = 0

    def learn(self, n: int, seconds: float) -> None:
        """A batch of `n` took `seconds`. The very first pays for what is made once, such as
        kernels and caches: it is forgotten when there is a second."""
        if self.batches == 1:
            self.weight = self.sum_n = self.sum_nn = self.sum_s = self.sum_ns = 0.0
        self.batches += 1
        self.weight = self.weight * FADE + 1.0
        self.sum_n = self.sum_n * FADE + n
        self.sum_nn = self.sum_nn * FADE + n * n
        self.sum_s = self.sum_s * FADE + seconds
        self.sum_ns = self.sum_ns * FADE + n * seconds

    def line(self) -> tuple[float, float]:
        """(seconds per item, fixed seconds), neither negative; zeros before the first batch.

        While all batches had one size the line through the origin is taken: it promises
        least for larger batches.
        """
        if not self.weight:
            return 0.0, 0.0
        mean_n, mean_s = self.sum_n / self.weight, self.sum_s / self.weight
        variance = self.sum_nn / self.weight - mean_n * mean_n
        if variance < 1e-9 * mean_n * mean_n:
            return mean_s / mean_n, 0.0
        slope = (self.sum_ns / self.weight - mean_n * mean_s) / variance
        if slope <= 0.0:
            return 0.0, mean_s
        fixed = mean_s - slope * mean_n
        if fixed <= 0.0:
            return mean_s / mean_n, 0.0
        return slope, fixed

    def seconds(self, n: int) -> float:
        """How long a batch of `n` is expected to take; 0 before anything is known."""
        slope, fixed = self.line()
        return slope * n + fixed

    def largest_within(self, target_s: float, limit: int) -> int:
        """The largest batch expected to take at most `target_s`: from 1 to `limit`."""
        slope, fixed = self.line()
        if slope * limit + fixed <= target_s:
            return limit
        if slope <= 0.0:
            return 1
        return max(1, min(limit, int((target_s - fixed) / slope)))

    def wait_s(self, ahead: int, running: int, workers: int, limit: int) -> float:
        """Expected wait of a request with `ahead` waiting before it and `running` computed.

        The batch a worker computes is half done on average, one sent ahead is not begun;
        those waiting go out in full batches.
        """
        if not running and not ahead:
            return 0.0
        slope, fixed = self.line()
        lanes = max(workers, 1)
        each = running / lanes  # jobs that a worker has
        begun = ceil(each / limit) - 0.5
        batches, rest = divmod(ahead, limit)
        before = batches * (slope * limit + fixed) + (slope * rest + fixed if rest else 0.0)
        busy = begun * (slope * min(each, limit) + fixed) if each >= 1 else 0.0
        return busy + before / lanes

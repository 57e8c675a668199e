"""Who is held up for coming so often without a key (throttling of failed authentication)?

A bucket per address (as `rate_limit` has them), for a bounded number of addresses. Whoever guesses
keys, or asks ten thousand times a second with a revoked one, costs the others what it takes to
refuse that; held up on its connections it asks a few times a second. Nobody else at its address is.
"""

from typing import Final

RATE_PER_S: Final = 200.0
BURST: Final = 2000  # what a test or a client with an old key may do before it is noticed
HOLD_S: Final = 1.0
MAX_ADDRESSES: Final = 4096  # addresses


class Strangers:
    """The addresses from which requests were refused for want of a key."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at: dict[bytes, float] = {}  # when each bucket is full again

    def came(self, address: bytes, now: float) -> bool:
        """Whether one more is one too many, counted as one that came."""
        known = self._full_at
        if address not in known and len(known) >= MAX_ADDRESSES:
            for each in [each for each, full_at in known.items() if full_at <= now]:
                del known[each]
            if len(known) >= MAX_ADDRESSES:
                known.clear()  # so many at once that no address is worth remembering
        full_at = max(now, known.get(address, now)) + 1.0 / RATE_PER_S
        if full_at > now + BURST / RATE_PER_S:
            return True
        known[address] = full_at
        return False

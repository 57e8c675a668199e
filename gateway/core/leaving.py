"""How does a worker leave (graceful shutdown, drain), whatever it is told, in whatever order?

It may be told to end, more than once; be interrupted by a person; be replaced by another gateway
that accepts on the same sockets; or find that a part of it failed. Only who is told to end a second
time hurries. To be replaced is no such telling, and neither is a fault: what clients have sent is
answered as long as there is time to drain.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

FAULT_DRAIN_S: Final = 5.0
"""How long a worker of which a part failed finishes what it has: another one is started in its
place only when it has ended, after a pause that grows where all of them fail."""

Event = Literal["told", "interrupted", "replaced", "failed"]


@dataclass(frozen=True, slots=True)
class Leaving:
    """What a worker has heard so far of its end: `told` how often it was told to, and whether it
    is `interrupted`: then nobody is waited for who should hear of it first."""

    told: int = 0
    interrupted: bool = False
    is_replaced: bool = False
    has_failed: bool = False

    def after(self, event: Event) -> "Leaving":
        """What it has heard after `event`."""
        if event == "replaced":
            return replace(self, is_replaced=True)
        if event == "failed":
            return replace(self, has_failed=True)
        interrupted = self.interrupted or event == "interrupted"
        return replace(self, told=self.told + 1, interrupted=interrupted)

    @property
    def has_begun(self) -> bool:
        return self.told > 0 or self.is_replaced or self.has_failed

    @property
    def is_hurried(self) -> bool:
        """Whether requests are cut off now."""
        return self.told > 1

    @property
    def accepts(self) -> bool:
        """Whether connections are accepted while others are told of its end, and until somebody
        else accepts them."""
        return not self.is_replaced and not self.has_failed

    def limits_s(self, lame_duck_s: float, drain_s: float) -> tuple[float, float]:
        """How long others are told of its end, and how long it may then take to finish, of what
        the settings allow."""
        if self.has_failed:
            return 0.0, min(drain_s, FAULT_DRAIN_S)
        return (0.0 if self.interrupted else lame_duck_s), drain_s

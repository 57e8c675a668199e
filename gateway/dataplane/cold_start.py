"""Since when is the start of a backend waited for, and for how long still?

Of one that starts on demand: who starts it hears that requests wait, and those that wait in vain
are told when to come again.
"""

import math
from typing import Final

from mypy_extensions import mypyc_attr

from gateway.core.errors import NoRoom
from gateway.core.retrying import START_AGAIN_S
from gateway.dataplane.shared import Shared

ASK_AGAIN_S: Final = 1.0  # between two wishes for a backend to be started


@mypyc_attr(allow_interpreted_subclasses=True)
class ColdStart:
    """The start of the backend of that name, as far as this worker's requests wait for it."""

    __slots__ = ("_asked_at", "_begun_at", "_name", "_shared", "is_awaited")

    def __init__(self, shared: Shared, name: str) -> None:
        self._shared, self._name = shared, name
        self._asked_at = self._begun_at = -math.inf
        self.is_awaited = False

    @property
    def has_failed(self) -> bool:
        """Whether it is known that it cannot be started."""
        return self._shared.demand.get(self._name, (0.0, False))[1]

    def ask(self, now: float) -> None:
        """Says that a request wants it to be started."""
        if not self.is_awaited:
            self.is_awaited, self._begun_at = True, now
        if now - self._asked_at >= ASK_AGAIN_S:
            self._asked_at = now
            self._shared.ask_for(self._name)

    def over(self) -> None:
        """Nobody waits for it any more."""
        self._asked_at, self.is_awaited = -math.inf, False

    def refusal(self, what: str, code: str, now: float) -> NoRoom:
        """What is said to a request that cannot wait for it, or not for longer: `what`, and when it
        will be there, as far as a start was measured."""
        load_s = self._shared.demand.get(self._name, (0.0, False))[0]
        left_s = max(1.0, float(math.ceil(load_s - max(0.0, now - self._begun_at))))
        return NoRoom(f"The model is being loaded, and {what}.", code, retry_after_s=left_s)

    def failure(self) -> NoRoom:
        """What is said to a request of one that cannot be loaded: who comes again sooner than it
        is tried again meets the same."""
        return NoRoom("The model could not be loaded.", retry_after_s=START_AGAIN_S)

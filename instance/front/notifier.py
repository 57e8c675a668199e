"""The HTTP process's end of the process in which callbacks run.

What happens is told as it happens; a callback that is slow
falls behind, and what it cannot catch up with is left out: nobody waits for it.
"""

import logging
from typing import Any

from instance.front.companion import Companion
from instance.wire.messages import Ready, Seen, ToNotifier

log = logging.getLogger("instance")
MAX_UNSEEN = 10_000  # events that wait for a slow callback


class Notifier(Companion[ToNotifier, Ready | Seen]):
    """The callbacks of one instance, as its HTTP process sees them."""

    MODULE = "instance.model.notification"
    WHO = "the process of the callbacks"

    _unseen = _left_out = 0

    def tell(self, event: str, **facts: Any) -> None:
        """Says that `event` happened; never waits."""
        if not self.ready:
            return
        if self._unseen >= MAX_UNSEEN:
            if not self._left_out:
                log.warning("a callback is too slow: events are left out")
            self._left_out += 1
            return
        self._unseen += 1
        self.send(("event", event, facts))

    def on_message(self, message: Ready | Seen) -> None:
        """Hears that the process can be told, or has seen one more."""
        if message[0] == "ready":
            self.become_ready()
            return
        self._unseen -= 1
        if self._left_out and not self._unseen:
            log.warning("%d events were left out", self._left_out)
            self._left_out = 0

    def on_end(self) -> None:
        self._unseen = 0

"""Until when do the certificates hold that the listeners show?

What the workers and the admin listener took over last is read, not the files: those may be broken,
or not looked at yet. Nothing is refused for it, as a clock may be wrong; but whoever runs the
gateway is told before clients are turned away, once for each certificate and each thing to say.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from gateway.core.validity import Validity, Word, validity
from gateway.processes.certificates import LastCertificates

LOOK_S = 5.0
EXPIRY = "headgate_certificate_expiry_seconds"


class ShownCertificates:
    """The certificates that were kept in `last` by the names of `listeners`, each with its file."""

    def __init__(
        self,
        last: LastCertificates,
        listeners: Mapping[str, str],
        say: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._last, self._listeners = last, listeners
        self._say, self._wall = say, wall
        self._known: dict[str, tuple[Validity, Word]] = {}

    async def watch(self) -> None:
        """Looks every LOOK_S, until it is cancelled."""
        while self._listeners:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Takes in what is shown now, and says what has to be said of it."""
        for listener, path in self._listeners.items():
            try:
                shown = validity(self._last.get(listener, "cert").get("cert", b""))
            except ValueError:  # nothing yet, or of a form that only OpenSSL reads
                self._known.pop(listener, None)
                continue
            word = shown.word(self._wall())
            if self._known.get(listener) != (shown, word):
                self._known[listener] = shown, word
                if word != "holds":
                    self._say(f"{path}: {_said(shown, word)} (gateway.{listener})")

    def status(self) -> dict[str, dict[str, str]]:
        """Of each listener's certificate its file, until when it holds, its state (a `Word`), and
        what is to be said of it."""
        return {
            listener: {
                "file": self._listeners[listener],
                "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(shown.not_after)),
                "state": word,
                "says": _said(shown, word),
            }
            for listener, (shown, word) in self._known.copy().items()
        }

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Metric → labels → value."""
        known = self._known.copy()
        return {EXPIRY: {(listener,): shown.not_after for listener, (shown, _) in known.items()}}


def _said(shown: Validity, word: Word) -> str:
    if word == "holds":
        return ""
    if word == "early":
        return f"the certificate is not valid before {_day(shown.not_before)}; clients refuse it"
    if word == "expired":
        return f"the certificate has expired on {_day(shown.not_after)}; clients refuse it"
    return f"the certificate expires on {_day(shown.not_after)}; renew it"


def _day(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d at %H:%M UTC", time.gmtime(wall_s))

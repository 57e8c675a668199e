"""What does it take to send requests to a backend, besides an address (TLS, set headers)?

The live side of `tls` and `headers` of a backend. Until they were read nothing is sent: who
connects waits for that, and what is connected already is used no more.
"""

import re
from collections.abc import Callable

from gateway.core.table import Backend
from gateway.dataplane.shared import Shared
from gateway.processes.credentials import Held


class Meeting:
    """How the instances of one backend are met now: the `credential`, None for plain HTTP; the
    `lines` that are set in each head; and what finds the lines of a client that those replace."""

    __slots__ = ("_name", "_shared", "credential", "lines", "replaced")

    def __init__(self, shared: Shared, name: str) -> None:
        self._shared, self._name = shared, name
        self.credential: Held | None = None
        self.lines = b""
        self.replaced: re.Pattern[bytes] | None = None

    def configure(self, config: Backend, read: Callable[[], None]) -> None:
        """Takes an edit; `read` is called whenever files were read that it names."""
        before = self.credential
        if before is None and not (config.headers or _is_secure(config)):
            return
        credential = self._shared.credentials.swap(before, config)
        if credential is not before:
            if before is not None:
                before.listeners.pop(self._name, None)
            if credential is not None:
                credential.listeners[self._name] = read
            self.credential = credential
            self.replaced = _lines_called([each.name for each in config.headers])
        self.take()

    def take(self) -> None:
        """Goes by what was read last."""
        known = self.credential.current if self.credential is not None else None
        self.lines = known.lines if known is not None else b""

    def leave(self) -> None:
        """The backend was removed."""
        if self.credential is not None:
            self.credential.listeners.pop(self._name, None)
            self.credential = self._shared.credentials.swap(self.credential, None)


def _is_secure(config: Backend) -> bool:
    return any(instance.secure for instance in config.instances)


def _lines_called(names: list[str]) -> re.Pattern[bytes] | None:
    """What finds the header lines with these names in a head; None without names."""
    if not names:
        return None
    either = b"|".join(re.escape(name.encode()) for name in names)
    return re.compile(rb"(?<=\n)(?:%b):[^\n]*\n" % either, re.IGNORECASE)

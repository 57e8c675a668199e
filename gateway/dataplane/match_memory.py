"""What is remembered of the last match, for the next request of the same client?"""

from typing import Any

from gateway.dataplane.live_route import LiveRoute


class Remembered:
    """What one client asked for last, and what it got from the snapshot of this `mark`: the
    outcome for the whole target, and `led`, to which its path alone led. And the form of the host
    that it named last, which is the same for most of what it asks; and as whom it was let in last
    with which lines, see `dataplane.door`."""

    __slots__ = (
        "admitted", "api_key", "authorization", "form", "host", "led", "mark", "method", "outcome",
        "path", "target", "written",
    )  # fmt: skip
    outcome: tuple[LiveRoute, bytes]
    led: bytes

    def __init__(self) -> None:
        self.mark: object = None
        self.method = self.target = self.path = b""
        self.host: bytes | None = None
        self.written: bytes | None = None
        self.form = ""
        self.authorization = self.api_key = b""
        self.admitted: tuple[object, object, Any] | None = None

"""How does a new table come into a worker that serves requests?

In parts, one message each, between which requests are served. A part that does not fit with
what came before, or with the revision that is served, is refused: the control process then
sends everything.
"""

from collections.abc import Iterable

from gateway.core.deltas import Delta
from gateway.core.drafting import Draft
from gateway.core.evidence import States
from gateway.core.health import HealthState
from gateway.core.table import TableError
from gateway.dataplane.plane import Plane
from gateway.wire.messages import HealthMessage, Signals, TableMessage


class Incoming:
    """The table that is on its way to `plane`, if there is one."""

    __slots__ = ("_draft", "_known", "_part", "_plane", "_revision")

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._draft: Draft | None = None
        self._revision = self._part = 0
        self._known: list[tuple[dict[str, States], Signals]] = []

    def take(self, message: TableMessage) -> bool:
        """Whether `message` was the last of its table, which is served from the next request on.
        TableError if it cannot be taken."""
        part = message["part"]
        if part == 0:
            self._begin(message["revision"], message["base"])
        elif self._draft is None or (message["revision"], part) != (self._revision, self._part):
            self._draft = None
            raise TableError(
                "", f"part {part} of revision {message['revision']} comes from nowhere"
            )
        draft, self._draft = self._draft, None  # a fault ends it
        assert draft is not None
        self._part += 1
        delta = Delta.from_json(message)
        draft.take(delta)
        for name in delta.put.get("backends", ()):
            # One at a time: together they would take long, and nobody asks for them yet.
            self._plane.live.prepare(draft.backends[name])
        self._hear(message.get("health", ()))
        if message["more"]:
            self._draft = draft
            return False
        table, matcher = draft.done(self._revision)
        self._plane.swap(table, message.get("endpoints"), matcher, draft.changed)
        for states, signals in self._known:  # in the same step: no request comes in between
            self._plane.live.hear(states, signals)
        return True

    def _hear(self, messages: Iterable[HealthMessage]) -> None:
        """Takes what is known of backends that nobody asks for yet at once, and of those whose new
        instances are about to be there once they are."""
        served = self._plane.snapshot.table.backends
        for message in messages:
            states, signals = health_of(message)
            new = {name: each for name, each in states.items() if name not in served}
            self._plane.live.hear(new, signals)
            self._known.append(({name: states[name] for name in states.keys() - new}, signals))

    def _begin(self, revision: int, base: int | None) -> None:
        served = self._plane.snapshot
        if base is not None and base != served.revision:
            raise TableError("", f"revision {base} is not served here, {served.revision} is")
        self._draft = Draft(served.table, served.matcher, is_whole=base is None)
        self._revision, self._part = revision, 0
        self._known = []


def health_of(message: HealthMessage) -> tuple[dict[str, States], Signals]:
    """What a `health` message says: states by backend and address, and the signals since."""
    states = {
        backend: {address: HealthState(*told) for address, told in instances.items()}
        for backend, instances in message["states"].items()
    }
    return states, message["signals"]

"""When was each key last used, how much, and how often was it refused?

Taken from what the workers count anyway (requests by consumer, route and code), each time that
those counters are read, which is every ten seconds and whenever somebody asks: a request costs
nothing for it, and a last use is known to ten seconds. It outlives the gateway in a small file in
the state directory, written every few seconds while anything changes; who is killed loses those of
it and nothing else.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from gateway.controlplane.watch.rates import LASTS_S, per_s
from gateway.controlplane.watch.tallies import Change
from gateway.processes.tasks import Tasks, told
from gateway.telemetry.metrics import CONSUMED

log = logging.getLogger(__name__)
NAME = "key-use.json"
WRITES_S = 10.0
REFUSED = ("401", "403", "429")
"""Codes of a request that was turned away at the door."""


class UseFile:
    """What is remembered in `path` of keys: when each was last used, and how many requests had been
    counted of it then. Best effort: one that cannot be read or written means that less is known."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> dict[str, tuple[float, int]]:
        """Key → seconds since 1970 and that count."""
        try:
            found = orjson.loads(self._path.read_bytes()) if self._path is not None else {}
            return {str(name): (float(at), int(count)) for name, (at, count) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep(self, used: Mapping[str, tuple[float, int]]) -> None:
        """Writes `used`, whole or not at all."""
        if self._path is None:
            return
        scrap = self._path.with_suffix(".new")
        try:
            with open(scrap, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(orjson.dumps(used))
            os.replace(scrap, self._path)
        except OSError:
            return


class KeyUse:
    """What is known of the use of keys."""

    def __init__(
        self,
        file: UseFile,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._wall, self._clock = file, wall, clock
        self._used = file.load()
        self._counts: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        # What was counted until when, at the last looks; and since when the first of them did.
        self._lately: deque[tuple[float, dict[str, int]]] = deque()
        self._since: float | None = None
        self._is_first = True
        self._is_new = False
        self._written_at = clock()
        self._own = Tasks(lambda name, error: log.error(f"{name} failed: {told(error)}"))
        self.writing: asyncio.Task[None] | None = None

    def note(self, changes: Iterable[Change]) -> None:
        """Takes in what was counted since the last look.

        At the first look nobody knows when that was. Only what was not counted when it was last
        written down is taken for use since then.
        """
        now = self._wall()
        changed: dict[str, int] = {}
        for change in changes:
            if change.metric != CONSUMED or not isinstance(change.key, tuple):
                continue
            name, more = change.labels[0], int(change.more)
            changed[name] = changed.get(name, 0) + more
            self._counts[name] = self._counts.get(name, 0) + more
            if change.key[-1] in REFUSED:
                self._refused[name] = self._refused.get(name, 0) + more
        # What was counted of a route that is gone is counted elsewhere now, and is no use of now.
        counted = {name: more for name, more in changed.items() if more > 0}
        for name in counted:
            count = self._counts[name]
            if not self._is_first or self._used.get(name, (0.0, 0))[1] != count:
                self._used[name] = now, count
                self._is_new = True
        self._is_first = False
        self._remember(self._clock(), counted)

    def _remember(self, now: float, counted: dict[str, int]) -> None:
        if self._since is None:  # what was counted before anybody looked is of no second
            self._since = now
            return
        self._lately.append((now, counted))
        while len(self._lately) > 1 and now - self._lately[0][0] >= LASTS_S:
            self._since, _ = self._lately.popleft()

    def per_s(self, name: str) -> float:
        """Requests a second of the key `name` lately, however they were answered."""
        if self._since is None or not self._lately:
            return 0.0
        count = sum(counted.get(name, 0) for _, counted in self._lately)
        return per_s(count, self._lately[-1][0] - self._since)

    def of(self, name: str) -> dict[str, Any]:
        """`last_used`, `requests` and `refused` of the key `name`; the last two since the gateway
        started."""
        at = self._used.get(name, (0.0, 0))[0]
        return {
            "last_used": _said(at) if at else None,
            "requests": max(0, self._counts.get(name, 0)),
            "refused": max(0, self._refused.get(name, 0)),
        }

    def beat(self, names: Mapping[str, Any]) -> None:
        """Writes down what is new of the keys `names`, every few seconds and beside the loop."""
        now = self._clock()
        is_writing = self.writing is not None and not self.writing.done()
        if not self._is_new or is_writing or now - self._written_at < WRITES_S:
            return
        self._written_at, self._is_new = now, False
        self._used = {name: used for name, used in self._used.items() if name in names}
        work = asyncio.to_thread(self._file.keep, dict(self._used))
        self.writing = self._own.run("writing down the use of keys", work)

    def close(self) -> None:
        """Writes down what is new."""
        if self._is_new:
            self._file.keep(self._used)


def _said(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

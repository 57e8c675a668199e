"""Which mirrors are compared, and what is known of each?

The table says which; a process of its own compares them, and tells. What it told last is kept here,
and given to the one that takes over from it: what dies loses pairs, and no more. While no mirror is
compared there is no such process.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.controlplane.events import utc_now
from gateway.core.comparing import compare_of
from gateway.core.edits import entry_of
from gateway.core.faults import Missing
from gateway.core.mirrored import Counts, Mirrored
from gateway.core.table import Document, Table
from gateway.processes.tasks import first_of
from gateway.telemetry.metrics import COMPARED as METRIC
from gateway.wire.channel import Channel
from gateway.wire.pairs import Compared, FromCompare, MirrorsMessage, MirrorSpec, ToCompare

PAUSE_S = 0.1
SILENT_S = 10.0  # twice: the compare process hangs, which says every other second that it lives
Json = Any
Link = Channel[ToCompare, FromCompare]


@dataclass(slots=True)
class _Entry:
    """One mirror: what is asked for, since when, and the last word of it."""

    id: str
    said: Mapping[str, Json]
    since: str = field(default_factory=utc_now)
    state: Mapping[str, Json] | None = None

    @property
    def backend(self) -> str:
        return str(self.said["backend"])

    @property
    def counts(self) -> Counts:
        return Counts() if self.state is None else Counts(*self.state["counts"])

    @property
    def skipped(self) -> int:
        """Pairs that came and were not compared."""
        return 0 if self.state is None else int(self.state["skipped"])

    @property
    def judged(self) -> Counts | None:
        return None if self.state is None else Counts(*self.state["judged"])


class Mirrors:
    """All mirrors that are compared, by route.

    `path` is where the compare process listens; `want` is told whether one is needed, whenever
    that changes, and `hangs` when one is that said nothing for two times `silent_s`
    seconds; `counted(route, backend)` gives verdict → how often, of what workers counted.
    """

    def __init__(
        self,
        path: str,
        want: Callable[[bool], None],
        *,
        hangs: Callable[[], None] = lambda: None,
        silent_s: float = SILENT_S,
        counted: Callable[[str, str], Mapping[str, int]] = lambda route, backend: {},
    ) -> None:
        self._path, self._want, self._counted = path, want, counted
        self._hangs, self._silent_s, self._silent = hangs, silent_s, 0
        self._routes: Mapping[str, Any] = {}
        self._all: dict[str, _Entry] = {}
        self._before: dict[tuple[str, str], tuple[Counts, int]] = {}
        self._link: Link | None = None
        self._wished = asyncio.Event()

    def sync(self, table: Table) -> None:
        """Compares what `table` says from now on. One that is edited begins anew."""
        if table.routes is self._routes:
            return
        self._routes = table.routes
        found: dict[str, _Entry] = {}
        for name, route in table.routes.items():
            if route.mirror is not None and route.mirror.compare is not None:
                said = entry_of(table.document, "routes", name)["mirror"]
                id_, known = _id(said), self._all.get(name)
                found[name] = known if known and known.id == id_ else _Entry(id_, said)
                found[name].said = said
        if found.keys() == self._all.keys() and all(found[r] is self._all[r] for r in found):
            return
        for name, entry in self._all.items():
            if found.get(name) is not entry:
                self._count_on(name, entry)
        if bool(found) != bool(self._all):
            self._want(bool(found))
        self._all = found
        if found:
            self._wished.set()
        else:
            self._wished.clear()
        self._tell()

    def announce(self) -> None:
        """Says again whether a process is needed: whoever hears it may have come anew."""
        self._want(bool(self._all))

    async def run(self) -> None:
        """Keeps in touch with the compare process, while there is one, until cancelled."""
        while True:
            await self._wished.wait()
            try:
                link: Link = await Channel.open(self._path)
            except OSError:
                await asyncio.sleep(PAUSE_S)
                continue
            self._link = link
            try:
                self._tell(knows_nothing=True)
                await self._listen(link)
            finally:
                self._link = None
                link.close()
            await asyncio.sleep(PAUSE_S)

    async def _listen(self, link: Link) -> None:
        """Hears what the compare process says until its end, or until it hangs."""
        await first_of(self._hear_all(link), self._watch())

    async def _hear_all(self, link: Link) -> None:
        while (message := await link.receive()) is not None:
            self._silent = 0
            if message["type"] == "compared":
                self._hear(message)

    async def _watch(self) -> None:
        self._silent = 0
        # Twice: where all were stopped, this one may go on a moment before the other.
        while self._silent <= 2:
            await asyncio.sleep(self._silent_s)
            self._silent += 1
        self._hangs()

    def _tell(self, knows_nothing: bool = False) -> None:
        """Says what is to be compared; and what was known of it, to a process that may be new."""
        if self._link is not None:
            specs = {
                route: MirrorSpec(
                    id=it.id,
                    since=it.since,
                    backend=it.backend,
                    compare=it.said["compare"],
                    known=it.state if knows_nothing else None,
                )
                for route, it in self._all.items()
            }
            self._link.send_soon(MirrorsMessage(type="mirrors", mirrors=specs))

    def _hear(self, message: Compared) -> None:
        entry = self._all.get(message["route"])
        if entry is not None and entry.id == message["id"]:
            entry.state, entry.since = message["state"], message["since"]

    def _count_on(self, route: str, entry: _Entry) -> None:
        """What was counted of a mirror that goes still counts where one like it comes."""
        self._before[route, entry.backend] = self._all_counts(route, entry)

    def _all_counts(self, route: str, entry: _Entry) -> tuple[Counts, int]:
        """What was counted of a mirror, and of those like it that were there before; and how many
        pairs of all of these were not compared."""
        counts, skipped = self._before.get((route, entry.backend), (Counts(), 0))
        return counts.plus(entry.counts), skipped + entry.skipped

    # -- what is told

    def judged(self, route: str, backend: str) -> tuple[str, Counts | None, bool] | None:
        """Which comparison with `backend` runs on `route`, its counts, in which a sticky key has
        one pair (None: it has told none yet), and whether the stable version is asked twice; None
        where none runs."""
        entry = self._all.get(route)
        if entry is None or entry.backend != backend:
            return None
        is_twice = compare_of(entry.said["compare"]).noise
        # Another gateway, or another process, compares the same with counts of its own.
        return f"{entry.id} {entry.since}", entry.judged, is_twice

    def shown(self, document: Document, route: str) -> Json:
        """What `GET …/mirror` answers; Missing where nothing is compared."""
        spec = entry_of(document, "routes", route)
        entry = self._all.get(route)
        if entry is None:
            has = "a mirror, whose answers are dropped" if spec.get("mirror") else "no mirror"
            raise Missing(f"route {route!r} has {has}: `mirror.compare` says how to compare them")
        known = entry.state
        if known is None:
            known = {"shown": Mirrored(compare_of(entry.said["compare"])).shown()}
        counts, others = entry.counts, dict(self._counted(route, entry.backend))
        return {
            "route": route,
            "backend": entry.backend,
            "percent": entry.said.get("percent", 100),
            "since": entry.since,
            **known["shown"],
            "verdicts": {
                "agree": counts.pairs - counts.differ,
                "differ": counts.differ,
                "unanswered": others.get("unanswered", 0),
                "dropped": others.get("dropped", 0) + entry.skipped,
            },
            "compare": dict(entry.said["compare"]),
        }

    def counters(self) -> dict[str, dict[tuple[str, ...], int]]:
        """Metric → labels → how many pairs agreed, and differed, and came and were not compared;
        of the last, and of those that never came, workers count more."""
        found: dict[tuple[str, ...], int] = {}
        for route, entry in self._all.items():
            counts, skipped = self._all_counts(route, entry)
            found[route, entry.backend, "agree"] = counts.pairs - counts.differ
            found[route, entry.backend, "differ"] = counts.differ
            found[route, entry.backend, "dropped"] = skipped
        return {METRIC: found}


def nobody() -> Mirrors:
    """None are compared, and there is nobody to do it."""
    return Mirrors("", lambda wanted: None)


def _id(said: Mapping[str, Json]) -> str:
    """Another one for each backend and each way to compare; how many are copied is all the same."""
    what = json.dumps([said["backend"], said["compare"]], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:16]

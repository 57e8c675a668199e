"""Which instance processes does `headgate up` run, and how far are they what the table asks for?

It is told by whoever starts them and knows nothing by itself; a control process that takes over is
told everything first. What changed becomes events.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from gateway.controlplane.events import Events
from gateway.controlplane.watch.health_book import HealthBook
from gateway.controlplane.watch.resident import Resident
from gateway.core.health import serving
from gateway.core.table import Table
from gateway.wire.line import Fleet, ForFleet, InstanceProcess, Logs, ServedBackend, Serves

ANSWER_WITHIN_S = 5.0
COMING = ("asleep", "unloading", "starting")
STARTS = "headgate_instance_starts_total"
LOAD_SECONDS = "headgate_instance_load_seconds"
CLUSTER_UP = "headgate_cluster_up"
_UNLOADING: Any = {"state": "unloading", "error": None}


class FleetView:
    """What was last told; `events` hear what is new, and `tell` reaches who starts processes."""

    def __init__(self, events: Events, tell: Callable[[ForFleet], None]) -> None:
        self._events, self._tell = events, tell
        self._resident = Resident()
        self._told: Fleet | None = None
        self._is_on_cluster = False
        self._away_since: str | None = None
        self._asked: dict[int, asyncio.Future[Logs]] = {}
        self._questions = 0
        self._changed = asyncio.Event()

    async def next_change(self) -> None:
        """Returns when the fleet told something next."""
        await self._changed.wait()

    async def logs(self, backend: str, after: int, lines: int) -> Logs:
        """The last lines that instances of `backend` wrote; TimeoutError when nobody says."""
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[Logs] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._tell(
            {"type": "ask_logs", "id": number, "backend": backend, "after": after, "lines": lines}
        )
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await answer
        finally:
            del self._asked[number]

    def hear(self, answer: Logs) -> None:
        """The answer to a question for logs."""
        asked = self._asked.get(answer["id"])
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def restart(self, backend: str) -> None:
        """Has each instance of `backend` ended and started again, one after the other."""
        self._tell({"type": "restart", "backend": backend})

    def start(self, backend: str) -> None:
        """Has a backend that starts on demand loaded, as a request would; one that could not be is
        tried again."""
        if self.state(backend) == "failed":
            self.stop(backend)  # of who sleeps no failure is remembered
        self._tell({"type": "wake", "backend": backend})

    def stop(self, backend: str) -> None:
        """Has a backend that starts on demand unloaded, once it has finished what it has."""
        if self._told is not None and self.state(backend) == "failed":
            # Whoever waits for it would take the old failure for a new one.
            each: ServedBackend = {**self._told["backends"][backend], **_UNLOADING}
            self._told = {**self._told, "backends": {**self._told["backends"], backend: each}}
        self._tell({"type": "sleep", "backend": backend})

    def status(self) -> dict[str, Any]:
        """`{"fleet": {revision, backends}}`; the revision is that of the table they are held to."""
        told, cluster = self._told, self._cluster()
        if told is None:
            return {"fleet": {"revision": 0, "backends": {}, "devices": [], **cluster}}
        devices = [
            {
                **{key: device[key] for key in ("name", "total", "others")},
                "held": [{"backend": name, "bytes": size} for name, size in device["held"]],
            }
            for device in told["devices"]
        ]
        backends = {
            name: {**each, "processes": [self._shown(one) for one in each["processes"]]}
            for name, each in told["backends"].items()
        }
        found = {"revision": told["revision"], "backends": backends, "devices": devices}
        return {"fleet": {**found, **cluster}}

    def _cluster(self) -> dict[str, Any]:
        """Whether the cluster can be reached, where instances are in one."""
        if not self._is_on_cluster:
            return {}
        state = "away" if self._away_since else "connected"
        return {"cluster": {"state": state, "since": self._away_since}}

    @property
    def follows(self) -> bool:
        """Whether another gateway's fleet starts and ends them."""
        return self._told is not None and self._told.get("follows", False)

    def _shown(self, process: InstanceProcess) -> dict[str, Any]:
        """With the memory that it has, where that can be looked at."""
        pid = process["pid"]
        found = self._resident(pid) if pid is not None and process["is_here"] else None
        shown = {key: value for key, value in process.items() if key != "is_here"}
        return {**shown, "resident": found}

    def state(self, backend: str) -> str:
        """How far its processes are what is asked for; "unknown" while nobody said."""
        told = self._told["backends"].get(backend) if self._told is not None else None
        return told["state"] if told is not None else "unknown"

    def error(self, backend: str) -> str | None:
        """Why its processes cannot be what is asked for."""
        told = self._told["backends"].get(backend) if self._told is not None else None
        return told["error"] if told is not None else None

    @property
    def demand(self) -> dict[str, tuple[float, bool]]:
        """Of the backends that start on demand: for how many seconds each loads (0: not known), and
        whether it cannot be loaded."""
        return {
            name: (each["load_s"] or 0.0, each["state"] == "failed")
            for name, each in self._backends()
            if each["addresses"] is not None
        }

    def asleep(self) -> frozenset[str]:
        """The backends that are nowhere now, and are started once a request asks for them."""
        return frozenset(
            name
            for name, each in self._backends()
            if each["addresses"] is not None and each["state"] in COMING
        )

    def counted(self) -> dict[str, dict[tuple[str, ...], int]]:
        """Metric → labels → what was counted of starts."""
        starts: dict[tuple[str, ...], int] = {}
        for name, each in self._backends():
            starts[name,] = each["starts"]
        return {STARTS: starts}

    def gauges(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Metric → labels → how long models took to load."""
        found: dict[tuple[str, ...], float] = {
            (name,): each["load_s"] for name, each in self._backends() if each["load_s"] is not None
        }
        if self._is_on_cluster:
            return {LOAD_SECONDS: found, CLUSTER_UP: {(): float(self._away_since is None)}}
        return {LOAD_SECONDS: found}

    def _backends(self) -> Iterable[tuple[str, ServedBackend]]:
        return self._told["backends"].items() if self._told is not None else ()

    def take(self, told: Fleet) -> None:
        """Takes in all that there is now."""
        before, self._told = self._told, told
        self._changed.set()
        self._changed = asyncio.Event()
        if before is None:
            return  # what was before us is no news
        old, new = _processes(before), _processes(told)
        for key in old.keys() - new.keys():
            self._say(key, "stopped", old[key])
        for key, process in new.items():
            if key not in old or old[key]["state"] != process["state"]:
                self._say(key, process["state"], process)
        for name, each in told["backends"].items():
            was = before["backends"].get(name)
            if each["addresses"] is not None and (was is None or was["state"] != each["state"]):
                event = {"type": "demand", "backend": name, "state": each["state"]}
                self._events.publish({**event, "detail": each["error"] or each["waits"]})

    def take_cluster(self, away_since: str | None) -> None:
        """Instances are in a cluster, which cannot be reached since then; None: it can."""
        before, self._away_since = self._away_since, away_since
        self._is_on_cluster = True
        if (before is None) != (away_since is None):
            what = "reached" if away_since is None else "lost"
            self._events.publish({"type": "cluster", "what": what, "since": away_since or before})

    def _say(self, key: tuple[str, str, bool], state: str, process: InstanceProcess) -> None:
        backend, address = key[:2]
        detail = process["error"] if state == "failed" else None
        event = {"type": "process", "backend": backend, "instance": address, "state": state}
        self._events.publish({**event, "pid": process["pid"], "detail": detail})


def serves(table: Table, health: HealthBook) -> Serves:
    """What `table` asks for, for whoever starts it, and who is not well enough to answer."""
    document = table.document.get("backends") or {}
    served = {name: document[name] for name, each in table.backends.items() if each.serve}
    ejected = health.ejected()
    out = {
        name: sorted(words.keys() - serving(words, frozenset(a for n, a in ejected if n == name)))
        for name, words in health.words.items()
        if name in served
    }
    return {"type": "serves", "revision": table.revision, "backends": served, "out": out}


def _processes(told: Fleet) -> dict[tuple[str, str, bool], InstanceProcess]:
    # At one address a process may be and another one have failed.
    return {
        (name, each["address"], each["state"] == "failed"): each
        for name, backend in told["backends"].items()
        for each in backend["processes"]
    }

"""How does `headgate up --on ray` reach its instances? Through a helper process that knows Ray.

Messages go both ways as between a fleet and the control process; a `RayFleet` passes them on. When
the helper ends, another one is started and takes over what is in the cluster; requests go on to
where they went. So they do while the cluster's head is away, which the helper may wait for: that it
says nothing of it any more is what is seen here.
"""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway.controlplane.events import utc_now
from gateway.processes.children import REAPED_WITHIN_S, Child, Command, Exit, this_program
from gateway.processes.lifeline import Lifeline
from gateway.processes.tasks import Tasks, first_of, told
from gateway.up.fleet import Placed, Plan, StartError
from gateway.up.plan import Site
from gateway.up.reach import Reach
from gateway.wire.channel import Channel
from gateway.wire.line import ForFleet, Serves, ToControl

LOOK_EVERY_S = 1.0
Spec = Mapping[str, Any]
RAYS_OWN = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


class RayFleet:
    """The instances of the file of `site`, in a Ray cluster; `say` is told what is to be known. One
    that `follows` places and ends none: another gateway's does."""

    def __init__(self, site: Site, say: Callable[[str], None], *, follows: bool = False) -> None:
        self._site, self._say, self._follows = site, say, follows
        self._lifeline = Lifeline()
        self._tasks = Tasks(lambda name, error: say(f"{name} ended: {told(error)}"))
        self._specs: Mapping[str, Spec] = {}
        self._channel: Channel[Any, Any] | None = None
        self._moves: asyncio.Queue[Placed] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._refused: str | None = None
        self._errors: Mapping[str, str | None] = {}
        self._tell: Callable[[ToControl], None] = lambda message: None
        self._last: Serves | None = None
        self._reach = Reach(time.monotonic())
        self._away_since: str | None = None
        self._ours: socket.socket | None = None
        self._theirs: socket.socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.placed: dict[str, list[str]] = {}
        self.folders: dict[str, Path] = {}
        self._child = Child(self._command, self._lifeline, started=self._on_start, ended=self._end)

    async def start(
        self, specs: Mapping[str, Spec], is_live: Callable[[str], bool] = lambda name: False
    ) -> None:
        """Returns when all that has room is ready; StartError when one cannot be started."""
        self._specs = {name: spec for name, spec in specs.items() if spec.get("serve")}
        for name, spec in self._specs.items():
            if written := [u for u in spec.get("instances") or () if not u.startswith("fleet://")]:
                raise StartError(
                    f"backends/{name}/instances: {written[0]} is a place on one machine, and with"
                    " --on ray the cluster chooses places: leave `instances` out"
                )
        self._keeper = self._tasks.keep("the helper for Ray", self._child.run)
        await self._begun.wait()
        if self._refused is not None:
            raise StartError(self._refused)
        for name, error in self._errors.items():
            if error and not is_live(name):
                raise StartError(f"backend {name}: {error}")

    def attach(self, tell: Callable[[ToControl], None]) -> None:
        self._tell = tell
        self._tasks.keep("minding whether the cluster is reached", self._mind)

    def take(self, message: ForFleet) -> None:
        if message["type"] == "serves":
            self._last = message
            self._tell({"type": "cluster", "away_since": self._away_since})
        self._send(message)

    async def _mind(self) -> None:
        while True:
            now = time.monotonic()
            since = self._reach.away_since(now)
            if (since is None) != (self._away_since is None):
                before = self._away_since
                self._away_since = None if since is None else utc_now(now - since)
                self._tell({"type": "cluster", "away_since": self._away_since})
                self._say(
                    f"the Ray cluster cannot be reached since {self._away_since}: nothing is placed"
                    " or moved to another host meanwhile; requests go on"
                    if before is None
                    else f"the Ray cluster is reached again, as it was not since {before}"
                )
            await asyncio.sleep(LOOK_EVERY_S)

    def ensure(self, plan: Plan) -> None:
        backends, out = plan.backends, plan.out
        self.take({"type": "serves", "revision": plan.revision, "backends": backends, "out": out})

    def renew(self, names: Iterable[str]) -> None:
        self._send({"type": "renew", "backends": list(names)})

    async def endpoints(self) -> AsyncIterator[Placed]:
        while True:
            yield await self._moves.get()

    async def stop(self, within_s: float, hurry: asyncio.Event) -> None:
        """Ends the helper. What is in the cluster goes on, and the next start takes it over."""
        self._child.abandon()
        if self._keeper is not None:
            await first_of(asyncio.wait([self._keeper]), timeout=REAPED_WITHIN_S)
        if self.placed and not self._follows:
            self._say("the instances go on in the cluster; headgate fleet down ends them")
        await self._tasks.close()
        self._lifeline.close()

    def _command(self) -> Command:
        self._ours, self._theirs = socket.socketpair()
        asked = {
            "fd": self._theirs.fileno(),
            "file": str(self._site.file.resolve()),
            "cwd": str(self._site.cwd),
            "fleet": self._site.file.stem,
            "follows": self._follows,
        }
        return Command(
            this_program("_ray", json.dumps(asked)), (self._theirs.fileno(),), environment=RAYS_OWN
        )

    def _on_start(self, _pid: int, _output: asyncio.StreamReader | None) -> None:
        assert self._ours is not None
        assert self._theirs is not None
        self._theirs.close()
        self._tasks.run("listening to the helper for Ray", self._listen(self._ours))

    async def _end(self, exit: Exit) -> bool:
        self._channel = None
        if self._refused is not None and not self._begun.is_set():
            return False
        if self._refused is not None:
            self._say(self._refused)
        self._say(f"the helper for Ray {exit}; starting it again")
        self._refused = None
        return True

    async def _listen(self, ours: socket.socket) -> None:
        channel: Channel[Any, Any] = Channel(*await asyncio.open_connection(sock=ours))
        specs = self._specs if self._last is None else self._last["backends"]
        again = self._begun.is_set()  # requests go to where the helper before it said
        channel.send_soon({"type": "begin", "backends": specs, "again": again})
        while (message := await channel.receive()) is not None:
            match message["type"]:
                case "say":
                    self._say(message["line"])
                case "reached":
                    self._reach.note(time.monotonic())
                case "refused":
                    self._refused = message["line"]
                    if not self.placed:
                        self._child.let_go()
                        self._begun.set()
                case "begun":
                    self._channel, self._errors = channel, message["errors"]
                    self.placed = message["placed"]
                    self._begun.set()
                    if self._last is not None:
                        self._send(self._last)
                case "endpoints":
                    self._moves.put_nowait(Placed(message["backend"], tuple(message["addresses"])))
                case _:
                    self._tell(message)
        channel.close()

    def _send(self, message: Any) -> None:
        if self._channel is not None:
            self._channel.send_soon(message)

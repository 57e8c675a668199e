"""A worker's end of its channel to the control process.

It takes tables, health, names and settings down and sends
observations up, at most a few times a second. When the channel ends it is opened again and
again; meanwhile the worker serves on with what it knows. Nothing here touches a request.
"""

import asyncio
import gc
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.dataplane.incoming import Incoming, health_of
from gateway.dataplane.observing import Observer
from gateway.dataplane.plane import Plane
from gateway.dataplane.shared import MAX_SIGNALS
from gateway.processes.tasks import Tasks, told
from gateway.wire.channel import Channel, pass_over
from gateway.wire.messages import Documents, FromWorker, Seen, TableMessage, ToWorker

log = logging.getLogger(__name__)
ControlChannel = Channel[FromWorker, ToWorker]
REPORT_S = 0.25
NEWS_S = 0.02
TAKEN = 20  # parts of a table, after which the control process hears that they were taken


class CannotServe(Exception):
    """What this worker was told makes no data plane; the text is one clear line."""


class ControlClient:
    """One worker's channel, for as long as the worker lives.

    `reach` opens a channel, or raises OSError when nobody is there; `slot` and `pid` are the
    worker's own. `made` gets the settings of the first `configure` and gives the plane, or
    raises CannotServe; `ready` is called once it has a table and was told all else; `own` keeps
    the tasks.
    `handed_over` is set when the worker, once told to go, need accept connections no more.
    """

    def __init__(
        self,
        reach: Callable[[], Awaitable[ControlChannel]],
        slot: int,
        pid: int,
        made: Callable[[Mapping[str, Any]], Plane],
        ready: Callable[[], None],
        retry_s: tuple[float, float],
        own: Tasks,
    ) -> None:
        self._reach = reach
        self._slot, self._pid = slot, pid
        self._name = f"{pid}-{secrets.token_hex(4)}"  # a later process may have the same number
        self._made = made
        self._ready = ready
        self._retry_s = retry_s
        self._own = own
        self._clock = asyncio.get_running_loop().time
        self._is_listening = self._is_leaving = self._is_heard = False
        self._has_table = self._is_welcome = False
        self.handed_over = asyncio.Event()
        self._channel: ControlChannel | None = None
        self._plane: Plane | None = None
        self._incoming: Incoming
        self._pieces: list[bytes] = []
        self._observer = Observer(self.send)
        self._news: asyncio.TimerHandle | None = None
        # What was seen since the other end was last heard of: it may not have taken it in.
        self._unheard: deque[Seen] = deque(maxlen=MAX_SIGNALS)

    async def follow(self) -> None:
        """Follows the control process until cancelled. CannotServe when it asks for what cannot
        be; whatever else goes wrong between the two, a new channel is a new beginning."""
        shortest, longest = self._retry_s
        pause = shortest
        while True:
            try:
                channel = await self._reach()
            except OSError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)
                continue
            began = self._clock()
            try:
                await self._converse(channel)
            except CannotServe:
                raise
            except Exception as error:
                # It is told everything anew on the next channel.
                log.error(f"broke with the control process: {told(error)}; opening another channel")
            finally:
                self._channel = None
                channel.close()
            # One that ends as soon as it has begun will do so again.
            pause = shortest if self._clock() - began > longest else min(pause * 2, longest)
            await asyncio.sleep(pause)

    async def _converse(self, channel: ControlChannel) -> None:
        revision = self._plane.snapshot.revision if self._plane is not None else 0
        await channel.send(
            {
                "type": "hello",
                "slot": self._slot,
                "pid": self._pid,
                "revision": revision,
                "listening": self._is_listening,
                "leaving": self._is_leaving,
                "signals": self._seen(),
            }
        )
        self._channel = channel
        self._observer = Observer(self.send)
        for judge in self._plane.judges.values() if self._plane is not None else ():
            judge.begin()
        self._pieces.clear()
        self._is_heard = False
        if self._plane is not None:
            self._plane.live.ask_again()
        while (message := await channel.receive()) is not None:
            self._is_heard = True
            self._unheard.clear()
            self._take(message)
            if message.get("more"):
                await asyncio.sleep(0)  # requests come between two parts

    def _take(self, message: ToWorker) -> None:
        """Acts on one message. A fault in one is told, and ends nothing."""
        if message["type"] == "configure":
            if self._plane is None:
                self._plane = self._made(message["settings"])
                self._plane.notify = self._soon
                self._incoming = Incoming(self._plane)
                self._own.keep("the report of loads", self._report)
            return
        plane = self._plane
        if plane is None:
            log.warning("message before configure", extra={"facts": {"type": message["type"]}})
            return
        try:
            self._apply(plane, message)
        except Exception as error:
            facts = {"type": message["type"], "detail": told(error)}
            log.error("unusable message", extra={"facts": facts})
            if message["type"] == "table":
                revision = plane.snapshot.revision
                self.send({"type": "applied", "revision": revision, "error": str(error)})

    def _apply(self, plane: Plane, message: ToWorker) -> None:
        match message["type"]:
            case "table":
                self._table(plane, message)
            case "endpoints":
                plane.live.resolve(message["endpoints"])
            case "health":
                plane.live.hear(*health_of(message))
            case "evidence":
                plane.live.learn(message["signals"])
            case "lease":
                plane.lease_until = message["until"]
                plane.had_lease = plane.had_lease or message["was"]
                plane.share_limits(message["gateways"])
            case "look":
                plane.ledger.flush()
                plane.count_dropped()
                self._observer.look(plane, message["id"], reports=message["reports"])
            case "retire":
                plane.counters.retire(map(tuple, message["gone"]), message["name"])
            case "documents":
                self._documents(plane, message)
            case "rollouts":
                plane.judge(message["routes"])
            case "welcome":
                self._is_welcome = True
                self._begin()
            case "served":
                plane.serve_at(message["paths"])
            case "demand":
                plane.demand = {
                    name: (load_s, bool(has_failed))
                    for name, (load_s, has_failed) in message["backends"].items()
                }
                plane.live.hear_of_demand()
            case "reopen":
                plane.log.reopen()
            case "handed_over":
                self.handed_over.set()
            case "configure":
                pass  # once only
            case _:
                pass_over(message)

    def _table(self, plane: Plane, message: TableMessage) -> None:
        """One part of a table; it is served after the last one."""
        # What comes in stays: a collection in between would look at all of it, and so would
        # every full one later, for longer than a request should wait.
        gc.disable()
        try:
            is_served = self._incoming.take(message)
        except BaseException:
            gc.enable()
            raise
        if not is_served and message["part"] % TAKEN == TAKEN - 1:
            self.send({"type": "taking", "part": message["part"]})
        if is_served:
            if message["part"]:
                gc.freeze()
            gc.enable()
            self.send({"type": "applied", "revision": plane.snapshot.revision})
            self._has_table = True
            self._begin()

    def _begin(self) -> None:
        """Begins to serve, once that can be as well as the others do."""
        if self._has_table and self._is_welcome:
            self._ready()

    def _documents(self, plane: Plane, message: Documents) -> None:
        """One piece of one document; it is served once it is whole."""
        pieces = self._pieces
        pieces.append(message["text"].encode())
        if not message["more"]:
            kind = message["content_type"].encode()
            plane.documents[message["path"].encode()] = (kind, b"".join(pieces))
            pieces.clear()

    # -- up

    @property
    def is_open(self) -> bool:
        """Whether the control process is there now, and not only the socket at which it will be."""
        return self._channel is not None and self._is_heard

    def listening(self) -> None:
        """Connections are accepted from now on."""
        self._is_listening = True
        self.send({"type": "listening"})

    def leaving(self) -> None:
        """The worker was told to go."""
        self._is_leaving = True
        self.send({"type": "leaving"})

    def tell_judged(self) -> None:
        """What was counted for rollouts and not told yet: before the worker ends."""
        if self._plane is not None:
            self._tell_judged(self._plane)

    def send(self, message: FromWorker) -> None:
        if self._channel is not None:
            self._channel.send_soon(message)

    def _soon(self) -> None:
        """Sends the news up shortly, together with what comes meanwhile."""
        if self._news is None:
            self._news = asyncio.get_running_loop().call_later(NEWS_S, self._tell)

    def _tell(self) -> None:
        self._news = None
        if self._channel is not None and (signals := self._new()):
            self.send({"type": "evidence", "signals": signals})
        if self._channel is not None and self._plane is not None and self._plane.asked:
            self.send({"type": "asked", "backends": list(self._plane.asked)})
            self._plane.asked.clear()

    def _new(self) -> list[Seen]:
        """What was seen since it was last told."""
        plane = self._plane
        if plane is None:
            return []
        signals = list(plane.signals)
        plane.signals.clear()
        self._unheard += signals
        return signals

    def _seen(self) -> list[Seen]:
        """What whoever takes over as the control process may not know."""
        self._new()
        return list(self._unheard)

    async def _report(self) -> None:
        """What is live, when it changed."""
        while True:
            await asyncio.sleep(REPORT_S)
            if self._plane is not None:
                self._plane.load_memory.beat(self._plane.now())
                self._observer.look(self._plane, 0, reports=False)
                self._tell_judged(self._plane)

    def _tell_judged(self, plane: Plane) -> None:
        """What was counted for rollouts, where it changed."""
        if self._channel is not None:
            for judge in plane.judges.values():
                if judge.is_news:
                    self.send(judge.report(self._name))

"""The process that compares answers, from its start to its end.

Workers send pairs, the control process says which mirrors there are and hears what is known of
them. All of it is in memory: the control process has the last word of it too, and gives it to
whoever takes over. Nobody waits for this process; if it ends, some pairs are lost.
"""

import asyncio
import logging
import os
import signal
import socket
import struct
from collections import Counter, deque
from contextlib import suppress
from datetime import UTC, datetime

from gateway.comparing.bodies import answer_of
from gateway.core.comparing import compare_of
from gateway.core.mirrored import Mirrored, Pair
from gateway.processes.tasks import Tasks, first_of, told
from gateway.wire.channel import Channel
from gateway.wire.pairs import (
    MAX_FRAME,
    Alive,
    Compared,
    FromCompare,
    MirrorsMessage,
    PairHead,
    Part,
    ToCompare,
    unpacked,
)

log = logging.getLogger(__name__)
REPORT_S = 0.1
ALIVE_S = 2.0
MAX_EARLY = 256  # pairs of a route of which nothing was said yet
NICE = 10  # whoever answers clients comes first

Control = Channel[FromCompare, ToCompare]


class Comparing:
    """All mirrors that are compared (id, since when, and what is known), and who hears of them."""

    def __init__(self) -> None:
        self._mirrors: dict[str, tuple[str, str, Mirrored]] = {}
        self._early: deque[tuple[PairHead, list[Part]]] = deque()
        self._missed: Counter[str] = Counter()  # pairs of a route that came still earlier
        self._told = asyncio.Event()
        self._news: set[str] = set()
        self._listeners: set[Control] = set()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until its end."""
        channel: Control = Channel(reader, writer)
        try:
            message = await channel.receive()
            if message is not None and message["type"] == "pairs":
                await self._told.wait()  # nobody knows by which rules before
                await self._compare(reader)
            elif message is not None:
                await self._hear(channel, message)
        except Exception as error:
            log.error(f"compare: a connection cannot be understood: {told(error)}")
        finally:
            channel.close()

    async def _compare(self, reader: asyncio.StreamReader) -> None:
        """Takes the pairs of one worker, one after the other."""
        while True:
            try:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                if not 4 <= length <= MAX_FRAME:
                    raise ValueError(f"a pair of {length} bytes")
                pair = unpacked(await reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            self.take(*pair)
            await asyncio.sleep(0)  # the others have their turn

    def of(self, route: str) -> Mirrored:
        """What is known of the mirror of `route`, which is compared."""
        return self._mirrors[route][2]

    def take(self, head: PairHead, parts: list[Part]) -> None:
        """One more pair; of a route of which nothing was said yet it waits for that."""
        found = self._mirrors.get(head["route"])
        if found is None:
            self._early.append((head, parts))
            if len(self._early) > MAX_EARLY:
                self._missed[self._early.popleft()[0]["route"]] += 1
            return
        try:
            answers = [answer_of(part) for part in parts]
            pair = Pair(
                stable=answers[0],
                mirror=answers[1],
                again=answers[2] if len(answers) > 2 else None,
                key=head["key"],
                time=moment(head["time"]),
                request=head["request"],
            )
            found[2].take(pair)
        except Exception as error:  # a pair less is better than no process
            log.error(f"compare: a pair could not be compared: {told(error)}")
            found[2].skipped += 1
        self._news.add(head["route"])

    async def _hear(self, channel: Control, message: ToCompare | None) -> None:
        """Follows a control process."""
        self._listeners.add(channel)
        try:
            is_first = True
            while message is not None:
                if message["type"] == "mirrors":
                    self.sync(message)
                    if is_first:  # it may know less than is known here
                        self._news |= self._mirrors.keys()
                    is_first = False
                message = await channel.receive()
        finally:
            self._listeners.discard(channel)

    def sync(self, message: MirrorsMessage) -> None:
        """Compares these mirrors from now on; one that is what it was goes on."""
        before, self._mirrors = self._mirrors, {}
        for route, spec in message["mirrors"].items():
            known = before.get(route)
            if known is None or known[0] != spec["id"]:
                known = spec["id"], spec["since"], _made(spec["compare"], spec["known"])
            self._mirrors[route] = known
        early, self._early = self._early, deque()
        for head, parts in early:
            self.take(head, parts)
        missed, self._missed = self._missed, Counter()
        for route in missed.keys() & self._mirrors.keys():
            self.of(route).skipped += missed[route]
            self._news.add(route)
        self._told.set()

    async def report(self) -> None:
        """Tells what changed, for as long as it runs."""
        while True:
            await asyncio.sleep(REPORT_S)
            if not self._listeners or not self._news:
                continue
            news, self._news = self._news, set()
            for route in news & self._mirrors.keys():
                id_, since, mirror = self._mirrors[route]
                word = Compared(
                    type="compared", route=route, id=id_, since=since, state=mirror.as_json()
                )
                for channel in list(self._listeners):
                    with suppress(ConnectionError):
                        await channel.send(word)

    async def live(self) -> None:
        """Says now and then that it does, for as long as it runs."""
        while True:
            await asyncio.sleep(ALIVE_S)
            for channel in list(self._listeners):
                channel.send_soon(Alive(type="alive"))


def _made(compare: object, known: object) -> Mirrored:
    assert isinstance(compare, dict)
    rules = compare_of(compare)
    if isinstance(known, dict):
        with suppress(KeyError, TypeError, ValueError):
            return Mirrored.from_json(rules, known)
    return Mirrored(rules)


def moment(seconds: float) -> str:
    """Seconds since 1970, as all times are told."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


async def serve(bound: socket.socket) -> int:
    """Serves on `bound`, which listens, until SIGTERM; the exit code."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with suppress(OSError):
        os.nice(NICE)
    failed: list[str] = []

    def note(name: str, error: Exception) -> None:
        log.error(f"compare: {name} ended: {told(error)}")
        failed.append(name)
        stop.set()

    own, comparing = Tasks(note), Comparing()

    def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own.run("a connection", comparing.attend(reader, writer))

    # Which leaves the socket's path to the next compare process, as `start_unix_server` does not.
    server = await asyncio.start_server(attend, sock=bound)
    own.run("the report", comparing.report())
    own.run("the word that it lives", comparing.live())
    try:
        await first_of(stop.wait())
    finally:
        server.close()
        await own.close()
    return 1 if failed else 0

"""How does the last hour outlive the control process that saw it?

In a file of the gateway's own private directory, which lives as long as the gateway: what was
counted and what happened are added to it every other second, by a thread, so that no loop waits for
a disk. Whoever is killed loses those seconds, and one that ends in order nothing. It is a look back
and no state: what cannot be written or read is not there, and nobody is told.
"""

import asyncio
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.controlplane.events import Event, Events
from gateway.controlplane.watch.last_hour import LastHour, Step

NAME = "last-hour"
EVERY_S: Final = 2.0
PAUSE_S: Final = 10.0  # after what could not be written
LAYOUT: Final = 1
SPARE: Final = 1 << 20
"""The file is written anew, without what is no longer kept, once it has twice the bytes that it had
then and so many more."""

_FRAME: Final = struct.Struct(">III")  # bytes of the head, bytes of the counts, checksum of both

Record = tuple[str, Any]
"""A `layout`, a `step`, what makes one that is `begun` and goes on, an `event`, or that it `ended`;
and what there is to know of it."""


@dataclass(slots=True)
class Found:
    """What a process left: its steps and its events, the oldest first, and whether it ended in
    order."""

    steps: list[Step] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    ended: bool = False


class LastHourFile:
    """What is kept in `path` of `hour` and `events`."""

    def __init__(self, path: Path, hour: LastHour, events: Events) -> None:
        self._path, self._hour, self._events = path, hour, events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="last hour")
        self._written = 0, 0  # so many steps, and events
        self._additions = 0  # to the step that goes on
        self._is_anew = True
        self._size = self._size_anew = 0

    def take_up(self, now: float) -> None:
        """Goes on with what another process left, before anything is counted or happens."""
        found = read(self._path)
        self._hour.take_up(found.steps, now)
        self._events.take_up(found.events, is_all=found.ended)

    async def run(self) -> None:
        """Keeps what is new, until cancelled."""
        while True:
            is_kept = await self.keep()
            await asyncio.sleep(EVERY_S if is_kept else PAUSE_S)

    async def keep(self) -> bool:
        """Writes what is new; whether that could be done."""
        now = self._hour.closed, self._events.published
        is_anew = self._is_anew or self._size > 2 * self._size_anew + SPARE
        additions = self._hour.additions
        if now == self._written and additions == self._additions and not is_anew:
            return True
        begun = self._hour.begun()
        self._is_anew = True  # unless all goes well
        records = self._records((0, 0) if is_anew else self._written, begun)
        loop = asyncio.get_running_loop()
        try:
            size = await loop.run_in_executor(self._thread, _write, self._path, records, is_anew)
        except OSError:
            return False
        self._size = size if is_anew else self._size + size
        if is_anew:
            self._size_anew = size
        self._written, self._additions, self._is_anew = now, additions, False
        return True

    async def close(self) -> None:
        """Writes all of it, for the end: nothing comes after."""
        records = [*self._records((0, 0), self._hour.begun()), ("ended", True)]
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, _write, self._path, records, True)
        except OSError:
            pass
        self._thread.shutdown()

    def _records(self, written: tuple[int, int], begun: Callable[[], Step] | None) -> list[Record]:
        """What came after that. None of it changes any more."""
        steps: list[Record] = [("step", step) for step in self._hour.since(written[0])]
        if begun is not None:
            steps.append(("begun", begun))
        return [*steps, *(("event", event) for event in self._events.since(written[1]))]


def read(path: Path) -> Found:
    """What is in the file at `path`, as far as it is whole."""
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return Found()
    found, begun = Found(), None
    for head, counts in _unframed(content):
        if head.get("layout", LAYOUT) != LAYOUT:
            return Found()
        if "event" in head:
            found.events.append(head["event"])
        for kind in head.keys() & {"step", "begun"}:
            begun = _step(head[kind], counts)
            if kind == "step":
                found.steps.append(begun)
                begun = None
        found.ended = "ended" in head
    if begun is not None:
        found.steps.append(begun)
    return found


def _write(path: Path, records: Iterable[Record], is_anew: bool) -> int:
    """Adds `records` to the file, or makes it of them alone; how many bytes they are."""
    target = path.with_suffix(".new") if is_anew else path
    first: list[Record] = [("layout", LAYOUT)] if is_anew else []
    size = 0
    with open(target, "wb" if is_anew else "ab") as file:
        for kind, what in (*first, *records):
            size += file.write(_framed(kind, what))
    if is_anew:
        os.replace(target, path)
    return size


def _framed(kind: str, what: Any) -> bytes:
    counts = b""
    if kind == "begun":
        what = what()
    if isinstance(what, Step):
        (packed,) = what.counts
        counts = b"".join(packed.values())
        names = [(*of, len(each)) for of, each in packed.items()]
        what = {"since": what.since, "until": what.until, "names": names}
    head = orjson.dumps({kind: what})
    check = zlib.crc32(counts, zlib.crc32(head))
    return b"".join((_FRAME.pack(len(head), len(counts), check), head, counts))


def _unframed(content: memoryview) -> Iterator[tuple[Mapping[str, Any], memoryview]]:
    """The heads, each with its counts, up to the first that is not whole."""
    at = 0
    while at + _FRAME.size <= len(content):
        head_size, counts_size, check = _FRAME.unpack_from(content, at)
        middle = at + _FRAME.size + head_size
        head, counts = content[at + _FRAME.size : middle], content[middle : middle + counts_size]
        if len(counts) != counts_size or zlib.crc32(counts, zlib.crc32(head)) != check:
            return
        yield orjson.loads(head), counts
        at = middle + counts_size


def _step(said: Mapping[str, Any], counts: memoryview) -> Step:
    found, at = {}, 0
    for kind, name, size in said["names"]:
        found[kind, name] = bytes(counts[at : at + size])
        at += size
    return Step.made(said["since"], said["until"], found)

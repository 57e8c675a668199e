"""A worker that leaves: what clients have sent is answered, in whatever order it hears of its end
(real processes and signals)."""

import asyncio
import fcntl
import signal
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.dataplane.control_client import REPORT_S
from tests.dataplane.rig import Conversation, Peer, until
from tests.dataplane.test_worker import GET, Process, worker

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: gw.test\r\n\r\n"
TERM, REPLACED = signal.SIGTERM, signal.SIGWINCH


class Held:
    """Requests that an instance holds until they are `released`."""

    def __init__(self) -> None:
        self.asked, self._released = 0, asyncio.Event()

    async def script(self, conversation: Conversation) -> None:
        while True:
            await conversation.request()
            self.asked += 1
            await self._released.wait()
            await conversation.answer()

    def release(self) -> None:
        self._released.set()


@asynccontextmanager
async def busy_worker(folder: Path, stub: Any, **settings: Any) -> AsyncIterator[Any]:
    """A worker with a request under way, and a kept connection on which none is."""
    held = Held()
    async with worker(folder) as process:
        await process.meet(drain_s=60.0, **settings)
        await process.table(1, await stub(held.script))
        busy, idle = await process.connect(), await process.connect()
        idle.write(HEALTH)
        assert (await idle.answer()).status == 200
        busy.write(GET)
        await until(lambda: held.asked == 1)
        yield process, held, busy, idle


async def health(peer: Peer) -> tuple[int, str | None]:
    peer.write(HEALTH)
    answer = await peer.answer()
    assert answer.status, "the connection ended without a word"
    return answer.status, answer.get("connection")


async def heard(spare: Peer) -> None:
    """Returns when the worker has heard of its end: its answers close connections."""
    while (await health(spare))[1] != "close":
        pass


async def served_then_gone(process: Process, held: Held, *peers: Peer) -> None:
    """Each of `peers` has sent a request, which is answered; then the worker ends, with 0."""
    await until(lambda: held.asked == len(peers))
    held.release()
    for peer in peers:
        answer = await peer.answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
    assert await process.end(60) == 0


@pytest.mark.parametrize(
    "signals",
    [(REPLACED,), (REPLACED, REPLACED), (REPLACED, TERM), (TERM, REPLACED)],
    ids=lambda signals: "-".join(each.name for each in signals),
)
async def test_who_is_replaced_serves_what_comes_on_open_connections(
    tmp_path, stub, signals: tuple[signal.Signals, ...]
):
    async with busy_worker(tmp_path, stub, lame_duck_s=2.5) as (process, held, busy, idle):
        spare = await process.connect()
        process.process.send_signal(signals[0])
        await heard(spare)  # in this order, then
        for number in signals[1:]:
            process.process.send_signal(number)
        idle.write(GET)
        await served_then_gone(process, held, busy, idle)


async def test_health_is_200_from_the_moment_on_in_which_another_gateway_accepts(tmp_path, stub):
    """Also of a worker that was told to go before, by itself. Being told once more is a second
    time, and cuts."""
    async with busy_worker(tmp_path, stub, lame_duck_s=60.0) as (process, _, busy, idle):
        others = [await process.connect() for _ in range(50)]
        for each in others:
            assert await health(each) == (200, None)
        other = others.pop()
        process.process.send_signal(TERM)
        await process.receive("leaving")
        assert await health(idle) == (503, "close")
        process.process.send_signal(REPLACED)
        while (said := await health(other))[0] == 503:
            other = others.pop()
        assert said == (200, "close")
        process.process.send_signal(TERM)
        assert (await busy.answer()).error == "draining", "told twice"
        assert await process.end(60) == 0


async def test_who_is_replaced_while_it_waits_for_a_successor_of_its_own_waits_no_longer(
    tmp_path, stub
):
    async with busy_worker(tmp_path, stub, lame_duck_s=0.0) as (process, held, busy, idle):
        process.process.send_signal(TERM)
        await process.receive("leaving")
        assert (await health(idle))[0] == 503
        process.process.send_signal(REPLACED)  # nobody says `handed_over`
        await served_then_gone(process, held, busy)


async def test_a_channel_that_breaks_in_the_moment_of_a_report_cuts_no_request(tmp_path, stub):
    """As when a control process ends: what it left unread breaks the channel at once, and in the
    same turn of the loop the worker has something to tell."""
    async with busy_worker(tmp_path, stub) as (process, held, busy, idle):
        end = process.channel
        connection = end.transport.get_extra_info("socket")
        end.transport.pause_reading()
        end.send_soon({"type": "look", "id": 9, "reports": True})
        await until(lambda: unread(connection) > 0)
        process.process.send_signal(signal.SIGSTOP)
        idle.write(GET)  # what is in flight will be news
        end.close()
        await asyncio.sleep(2 * REPORT_S)  # so that it is due when the worker goes on
        process.process.send_signal(signal.SIGCONT)
        await until(lambda: held.asked == 2 or process.process.returncode is not None)
        held.release()
        assert [(await each.answer()).status for each in (busy, idle)] == [200, 200]
        await process.meet()
        await process.look()


def unread(connection: Any) -> int:
    told = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", told)[0])

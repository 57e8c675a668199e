"""A worker process: what it says on its channel, how it leaves (real process and signals)."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.channel import Channel
from tests.dataplane.rig import Conversation, Peer, StubInstance, control, until

ROOT = Path(__file__).parents[2]
GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"
MAIN = """
import socket, sys, uvloop
from gateway.dataplane.worker import WorkerOptions, serve
sock = socket.socket(fileno=int(sys.argv[1]))
sys.exit(uvloop.run(serve(WorkerOptions(), [sock], sys.argv[2], 3)))
"""


class Process:
    """A worker in a process of its own, and the control side of its channel."""

    def __init__(self, process: Any, channels: "asyncio.Queue[Channel]", port: int) -> None:
        self.process = process
        self.channels = channels
        self.port = port
        self.channel: Channel | None = None
        self.hello: dict[str, Any] = {}

    async def meet(self, **settings: Any) -> None:
        async with asyncio.timeout(10):
            self.channel = await self.channels.get()
            self.hello = await self.receive("hello")
        await self.channel.send({"type": "configure", "settings": settings})

    async def receive(self, kind: str) -> dict[str, Any]:
        assert self.channel is not None
        async with asyncio.timeout(5):
            while True:
                message = await self.channel.receive()
                assert message is not None
                if message["type"] == kind:
                    return message

    async def table(self, revision: int, *stubs: StubInstance) -> dict[str, Any]:
        assert self.channel is not None
        words = {"b": {stub.address: "up" for stub in stubs}}
        document = {
            "backends": {"b": {"instances": [stub.url for stub in stubs]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
        }
        await self.channel.send(
            {"type": "table", "revision": revision, "document": document, "endpoints": {}}
        )
        applied = await self.receive("applied")
        await self.channel.send({"type": "health", "instances": words})
        await self.scrape()  # comes after the health above
        return applied

    async def scrape(self) -> dict[str, Any]:
        assert self.channel is not None
        await self.channel.send({"type": "scrape", "id": 7})
        return await self.receive("metrics")

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self) -> Any:
        peer = await self.connect()
        peer.write(GET)
        answer = await peer.answer()
        peer.close()
        return answer

    async def told_to_go(self) -> None:
        """SIGTERM, and the control process says at once that it may stop to accept."""
        assert self.channel is not None
        self.process.send_signal(signal.SIGTERM)
        await self.receive("leaving")
        await self.channel.send({"type": "relieved"})

    async def end(self, within_s: float) -> int:
        async with asyncio.timeout(within_s):
            return int(await self.process.wait())


@contextlib.asynccontextmanager
async def worker(folder: Path) -> AsyncIterator[Process]:
    path = folder / "channel"
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    async with control(path) as channels:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAIN, str(sock.fileno()), str(path),
            pass_fds=[sock.fileno()], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        made = Process(process, channels, sock.getsockname()[1])
        try:
            yield made
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            sock.close()


async def test_a_worker_says_hello_applies_a_table_and_serves(tmp_path, stub):
    instance = await stub()
    async with worker(tmp_path) as process:
        await process.meet()
        assert (process.hello["slot"], process.hello["revision"]) == (3, 0)
        assert process.hello["pid"] == process.process.pid
        assert (await process.table(1, instance))["revision"] == 1
        assert (await process.ask()).status == 200
        metrics = await process.scrape()
        assert metrics["requests"] == [[["r", "b", instance.address, "GET", "200", ""], 1]]
        assert sum(metrics["request_seconds"]["series"][0][1]) == 1
        assert metrics["live"]["b"][instance.address]["in_flight"] == 0


async def test_a_table_that_cannot_be_used_changes_nothing(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        assert process.channel is not None
        await process.channel.send(
            {"type": "table", "revision": 2, "document": {"routes": {"r": {"match": "/"}}}}
        )
        applied = await process.receive("applied")
        assert applied["revision"] == 1
        assert "split" in applied["error"]
        assert (await process.ask()).status == 200


async def test_a_worker_serves_on_without_control_and_comes_back(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(5, await stub())
        assert process.channel is not None
        process.channel.close()
        assert (await process.ask()).status == 200
        await process.meet()
        assert process.hello["revision"] == 5


async def test_loads_and_ejections_go_up_and_come_down(tmp_path, stub):
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.reader.read()

    instance, spare = await stub(hang), await stub()
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, instance)
        peer = await process.connect()
        peer.write(GET)
        loads = await process.receive("loads")
        assert loads["in_flight"] == {"b": {instance.address: 1}}
        await process.table(2, instance, spare)
        assert process.channel is not None
        await process.channel.send(
            {"type": "ejections", "ejections": [["b", instance.address, 30.0, 1]]}
        )
        live = (await process.scrape())["live"]["b"]
        assert live[instance.address]["ejected_s"] > 29
        for _ in range(4):
            assert (await process.ask()).get("x-headgate-instance") == spare.address


async def test_r31_rows_of_failures_go_up_and_come_down(tmp_path, stub):
    async def fail(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(status=500)

    instance, spare = await stub(fail), await stub()
    async with worker(tmp_path) as process:
        await process.meet(workers=2)
        await process.table(1, instance)
        assert [(await process.ask()).status for _ in range(2)] == [500, 500]
        told = await process.receive("failures")
        assert sum(count for _, _, count, _ in told["failures"]) <= 2
        assert told["failures"][0][:2] == ["b", instance.address]
        assert process.channel is not None
        await process.channel.send(
            {"type": "failures", "failures": [["b", instance.address, 3, False]]}
        )
        await process.table(2, instance, spare)
        for _ in range(4):
            assert (await process.ask()).get("x-headgate-instance") == spare.address


async def test_r68_sigterm_is_a_lame_duck_then_a_drain_then_0(tmp_path, stub):
    release = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await release.wait()
            await conversation.answer()

    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.5, drain_s=5.0)
        await process.table(1, await stub(slow))
        busy = await process.connect()
        busy.write(GET)
        await asyncio.sleep(0.1)
        await process.told_to_go()
        health = await process.connect()
        health.write(b"GET /-/health HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        answer = await health.answer()
        assert (answer.status, answer.get("connection")) == (503, "close")
        release.set()
        finished = await busy.answer()
        assert (finished.status, finished.get("connection")) == (200, "close")
        assert await process.end(3.0) == 0


async def test_r68_what_does_not_finish_is_cut_at_the_drain_limit(tmp_path, stub):
    async def hang(conversation: Conversation) -> None:
        head = await conversation.head()
        if b"/stream" in head:
            conversation.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await conversation.reader.read()

    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=0.3)
        await process.table(1, await stub(hang))
        waits, streams = await process.connect(), await process.connect()
        waits.write(GET)
        streams.write(GET.replace(b"/x", b"/stream"))
        await streams.reader.readuntil(b"hi\r\n")
        await process.told_to_go()
        answer = await waits.answer()
        assert (answer.status, answer.error) == (503, "draining")
        assert answer.get("retry-after")
        assert await streams.at_end() == b""  # no last chunk
        last = await process.receive("metrics")
        assert await process.end(2.0) == 0
    counted = {(labels[4], labels[5]): count for labels, count in last["requests"]}
    assert counted == {("503", "draining"): 1, ("200", "draining"): 1}


async def test_r70_what_was_counted_last_is_told_before_the_end(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=1.0)
        await process.table(1, await stub())
        for _ in range(3):
            assert (await process.ask()).status == 200
        await process.told_to_go()
        last = await process.receive("metrics")
        assert await process.end(2.0) == 0
    assert sum(count for _, count in last["requests"]) == 3


async def test_r68_a_second_sigterm_ends_it_within_a_second(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=30.0, drain_s=30.0)
        await process.table(1, await stub())
        process.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        process.process.send_signal(signal.SIGTERM)
        assert await process.end(1.0) == 0
        assert time.monotonic() - began < 1.0


async def test_r68_a_worker_told_to_go_accepts_until_its_successor_does(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=5.0)
        await process.table(1, await stub())
        assert process.channel is not None
        assert (await process.ask()).status == 200  # it listens
        process.process.send_signal(signal.SIGTERM)
        await process.receive("leaving")
        await asyncio.sleep(0.3)
        answer = await process.ask()
        assert (answer.status, answer.get("connection")) == (200, "close")
        await process.channel.send({"type": "relieved"})
        assert await process.end(2.0) == 0


async def test_r68_a_worker_told_to_go_says_so_again_to_who_takes_over(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.5, drain_s=5.0)
        await process.table(1, await stub())
        assert (await process.ask()).status == 200  # it listens
        process.process.send_signal(signal.SIGTERM)
        await process.receive("leaving")
        assert process.channel is not None
        process.channel.close()
        await process.meet()
        assert (process.hello["listening"], process.hello["leaving"]) == (True, True)
        await process.channel.send({"type": "relieved"})
        assert await process.end(2.0) == 0


async def test_r68_a_worker_without_a_control_process_waits_for_no_successor(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.3, drain_s=5.0)
        await process.table(1, await stub())
        assert process.channel is not None
        assert (await process.ask()).status == 200  # it listens
        (tmp_path / "channel").unlink()
        process.channel.close()
        process.process.send_signal(signal.SIGTERM)
        assert await process.end(3.0) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_before_the_first_table_is_a_clean_end(tmp_path, number):
    async with worker(tmp_path) as process:
        await process.meet()
        process.process.send_signal(number)
        assert await process.end(8.0) == 0


async def test_an_idle_worker_sleeps(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        await process.ask()
        await asyncio.sleep(0.5)

        def switches() -> int:
            status = Path(f"/proc/{process.process.pid}/status").read_text()
            (line,) = [x for x in status.splitlines() if x.startswith("voluntary_ctxt_switches")]
            return int(line.split()[1])

        before = switches()
        await asyncio.sleep(2.0)
        assert (switches() - before) / 2.0 < 10


async def test_the_access_log_is_json_lines_without_secrets(tmp_path, stub):
    import json

    path = tmp_path / "access.log"
    async with worker(tmp_path) as process:
        await process.meet(access_log=str(path))
        await process.table(1, await stub())
        peer = await process.connect()
        peer.write(b'GET /a"b?token=secret HTTP/1.1\r\nHost: gw.test\r\nCookie: secret\r\n\r\n')
        assert (await peer.answer()).status == 200
        await until(lambda: path.exists() and path.stat().st_size > 0)
        text = path.read_text()
        assert "secret" not in text
        entry = json.loads(text)
        assert (entry["path"], entry["status"], entry["route"]) == ('/a"b', 200, "r")
        assert entry["revision"] == 1

"""A worker process: what it says on its channel, how it leaves (real process and signals)."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.watch.counters import Totals
from gateway.core.health import HealthState
from gateway.processes.sockets import listen
from gateway.telemetry.book import shared_memory
from gateway.telemetry.metrics import REQUEST, REQUESTS
from tests.dataplane.rig import ControlEnd, Conversation, Peer, StubInstance, control, until
from tests.harness.stretch import Stretch

ROOT = Path(__file__).parents[2]
GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"
MAIN = """
import socket, sys, uvloop
from gateway.dataplane.worker import WorkerOptions, serve
sock = socket.socket(fileno=int(sys.argv[1]))
options = WorkerOptions(counters=int(sys.argv[3]))
sys.exit(uvloop.run(serve(options, [sock], sys.argv[2], 3)))
"""


def part(revision: int, put: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A `table` message; by default one that holds all there is."""
    usual = {"base": None, "part": 0, "more": False, "put": put, "removed": {}, "endpoints": {}}
    return {"type": "table", "revision": revision, **usual, **more}


def _well(backend: str, *stubs: StubInstance) -> dict[str, Any]:
    """The message that these instances are up."""
    states = {backend: {stub.address: HealthState("up").told() for stub in stubs}}
    return {"type": "health", "states": states, "signals": []}


class Process:
    """A worker in a process of its own, and the control side of its channel."""

    def __init__(
        self, process: Any, channels: "asyncio.Queue[ControlEnd]", port: int, counters: int
    ) -> None:
        self.process = process
        self.totals = Totals(counters)
        self.channels = channels
        self.port = port
        self.channel: ControlEnd | None = None
        self.hello: dict[str, Any] = {}
        self.listener: socket.socket | None = None
        self.listens = False

    async def meet(self, **settings: Any) -> None:
        async with asyncio.timeout(60):
            self.channel = await self.channels.get()
            self.hello = await self.receive("hello")
        await self.channel.send({"type": "configure", "settings": settings})

    async def receive(self, kind: str) -> dict[str, Any]:
        assert self.channel is not None
        async with asyncio.timeout(60):
            while True:
                message = await self.channel.receive()
                assert message is not None
                if message["type"] == kind:
                    return message

    async def table(self, revision: int, *stubs: StubInstance) -> dict[str, Any]:
        assert self.channel is not None
        document = {
            "backends": {"b": {"instances": [stub.url for stub in stubs]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
        }
        await self.channel.send(part(revision, document))
        applied = await self.receive("applied")
        await self.channel.send(_well("b", *stubs))
        await self.channel.send({"type": "welcome"})
        if not self.listens:
            await self.receive("listening")
            self.listens = True
        await self.look()  # comes after the health above
        return applied

    async def look(self) -> dict[str, Any]:
        """What the worker says of itself when it is asked."""
        assert self.channel is not None
        await self.channel.send({"type": "look", "id": 7, "reports": True})
        while (observed := await self.receive("observed"))["id"] != 7:
            pass
        return observed

    def counted(self) -> dict[Any, Any]:
        """Requests counted, by method, code and reason."""
        self.totals.read()
        return sum((Counter(it.counts) for it in self.totals.of(REQUESTS).values()), Counter())

    async def connect(self) -> Peer:
        return Peer(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, data: bytes = GET) -> Any:
        peer = await self.connect()
        peer.write(data)
        answer = await peer.answer()
        peer.close()
        return answer

    async def ask_once_it_listens(self) -> Any:
        """The answer to the first connection that is not refused."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.ask()
                except ConnectionRefusedError:
                    await asyncio.sleep(0.005)

    async def told_to_go(self) -> None:
        """SIGTERM, and the control process says at once that it may stop to accept."""
        assert self.channel is not None
        self.process.send_signal(signal.SIGTERM)
        await self.receive("leaving")
        await self.channel.send({"type": "handed_over"})

    async def end(self, within_s: float) -> int:
        async with asyncio.timeout(within_s):
            return int(await self.process.wait())


@contextlib.asynccontextmanager
async def worker(folder: Path, before: str = "", **more: Any) -> AsyncIterator[Process]:
    """A worker in `folder`; `before` is run in its process first."""
    path = folder / "channel"
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    counters = shared_memory()
    async with control(path) as channels:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", before + MAIN, str(sock.fileno()), str(path), str(counters),
            pass_fds=[sock.fileno(), counters], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, **more,
        )  # fmt: skip
        made = Process(process, channels, sock.getsockname()[1], counters)
        made.listener = sock
        try:
            yield made
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            sock.close()
            os.close(counters)


async def test_a_worker_says_hello_applies_a_table_and_serves(tmp_path, stub):
    instance = await stub()
    async with worker(tmp_path) as process:
        await process.meet()
        assert (process.hello["slot"], process.hello["revision"]) == (3, 0)
        assert process.hello["pid"] == process.process.pid
        assert (await process.table(1, instance))["revision"] == 1
        assert (await process.ask()).status == 200
        observed = await process.look()
        assert process.counted() == {("GET", "200", ""): 1}
        assert list(process.totals.of(REQUESTS)) == [("r", "b", instance.address)]
        assert process.totals.of(REQUEST)["r", "b"].buckets.total() == 1
        assert observed["in_flight"].get("b", {}).get(instance.address, 0) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
async def test_as_many_may_wait_to_be_accepted_as_the_supervisor_said(tmp_path, stub):
    async with worker(tmp_path) as process:
        assert process.listener is not None
        listen([process.listener])
        before = backlog(process.listener)
        await process.meet()
        await process.table(1, await stub())
        assert (await process.ask()).status == 200
        assert backlog(process.listener) == before


def backlog(listener: socket.socket) -> int:
    """How many connections may wait there: `tcpi_sacked` of a socket that listens."""
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", told, 28)[0])


async def test_a_worker_accepts_nobody_before_it_knows_which_instances_are_up(tmp_path, stub):
    """It would refuse what every other worker answers."""
    instance = await stub()
    document = {
        "backends": {"b": {"instances": [instance.url]}},
        "routes": {"r": {"match": "/", "split": {"b": 1}}},
    }
    async with worker(tmp_path) as process:
        await process.meet()
        await process.channel.send(part(1, document))
        await process.receive("applied")
        asked = asyncio.create_task(process.ask_once_it_listens())
        await process.look()
        assert process.listener is not None
        assert not process.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        await process.channel.send(_well("b", instance))
        await process.channel.send({"type": "welcome"})
        assert (await asked).status == 200


async def test_what_is_known_of_new_instances_is_there_with_the_table_that_has_them(tmp_path, stub):
    """Whoever asks between the two would be told that nobody is there."""
    instance = await stub()
    put = {"backends": {"b": {"instances": [instance.url]}}}
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        known = [_well("b", instance)]
        await process.channel.send(part(2, put, base=1, removed={}, health=known))
        assert (await process.receive("applied"))["revision"] == 2
        assert (await process.ask()).status == 200
    assert instance.connections == 1


async def test_a_worker_opens_another_channel_after_what_it_cannot_understand(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        assert process.channel is not None
        process.channel.send_soon([])  # no message: it has no type
        await process.meet()
        assert process.hello["revision"] == 1
        assert (await process.ask()).status == 200
        await process.look()


async def test_a_message_that_makes_no_sense_ends_nothing(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        assert process.channel is not None
        for kind, member in (("health", "instances"), ("served", "paths"), ("look", "x")):
            await process.channel.send({"type": kind, member: None})
        await process.look()
        assert (await process.ask()).status == 200


async def test_settings_that_cannot_be_end_the_worker_in_one_line(tmp_path):
    async with worker(tmp_path, stderr=asyncio.subprocess.PIPE) as process:
        await process.meet(access_log=str(tmp_path / "none" / "log"))
        assert await process.end(60) == 78
        said = (await process.process.stderr.read()).decode()
        path = tmp_path / "none" / "log"
        assert said == f"headgate: worker 3: access_log: {path}: No such file or directory\n"


async def test_a_table_that_cannot_be_used_changes_nothing(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        assert process.channel is not None
        await process.channel.send(part(2, {"routes": {"r": {"match": "/"}}}))
        applied = await process.receive("applied")
        assert applied["revision"] == 1
        assert "split" in applied["error"]
        assert (await process.ask()).status == 200


async def test_a_difference_is_made_to_the_revision_that_is_served_or_refused(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        assert process.channel is not None
        other = {"routes": {"x": {"match": "/x", "split": {"b": 1}}}}
        await process.channel.send(part(3, other, base=2))
        applied = await process.receive("applied")
        assert applied["revision"] == 1
        assert "revision 2" in applied["error"]
        await process.channel.send(part(3, other, base=1, removed={"routes": ["r"]}))
        assert (await process.receive("applied")) == {"type": "applied", "revision": 3}
        assert (await process.ask(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")).status == 200
        assert (await process.ask(b"GET /y HTTP/1.1\r\nHost: h\r\n\r\n")).status == 404


async def test_nothing_of_a_table_is_served_before_its_last_part(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, instance := await stub())
        assert process.channel is not None
        backends = {"backends": {"c": {"instances": [instance.url]}}}
        await process.channel.send(part(2, backends, more=True))
        answer = await process.ask()
        assert (answer.status, answer.get("x-headgate-revision")) == (200, "1")
        routes = {"routes": {"r": {"match": "/", "split": {"c": 1}}}}
        await process.channel.send(part(2, routes, part=2))
        assert "comes from nowhere" in (await process.receive("applied"))["error"]
        await process.channel.send(part(2, backends, more=True))
        await process.channel.send(part(2, routes, part=1))
        assert (await process.receive("applied")) == {"type": "applied", "revision": 2}
        await process.channel.send(_well("c", instance))
        await process.look()
        answer = await process.ask()
        assert (answer.get("x-headgate-backend"), answer.get("x-headgate-revision")) == ("c", "2")


async def test_a_worker_serves_on_without_control_and_comes_back(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(5, await stub())
        assert process.channel is not None
        process.channel.close()
        assert (await process.ask()).status == 200
        await process.meet()
        assert process.hello["revision"] == 5


async def test_loads_go_up(tmp_path, stub):
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.reader.read()

    instance = await stub(hang)
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, instance)
        peer = await process.connect()
        peer.write(GET)
        observed = await process.receive("observed")
        assert observed["in_flight"] == {"b": {instance.address: 1}}
        assert (await process.look())["in_flight"] == {}, "nothing that was not said before"


async def test_r31_evidence_goes_up_and_comes_down(tmp_path, stub):
    async def drops(conversation: Conversation) -> None:
        await conversation.request()
        conversation.reset()

    instance, spare = await stub(drops), await stub()
    async with worker(tmp_path) as process:
        await process.meet(workers=2)
        await process.table(1, instance)
        assert [(await process.ask()).status for _ in range(2)] == [502, 502]
        seen = []
        while len(seen) < 2:
            seen += (await process.receive("evidence"))["signals"]
        assert [(each[0], each[2], each[3]) for each in seen] == 2 * [
            ("b", instance.address, "reset")
        ]
        assert process.channel is not None
        await process.table(2, instance, spare)
        now = time.monotonic()
        others = [["b", now + step / 1000, instance.address, "reset"] for step in range(5)]
        await process.channel.send({"type": "evidence", "signals": others})
        await process.look()
        for _ in range(4):
            assert (await process.ask()).get("x-headgate-instance") == spare.address


async def test_r31_what_was_seen_without_a_control_process_is_told_to_the_next_one(tmp_path, stub):
    async def drops(conversation: Conversation) -> None:
        await conversation.request()
        conversation.reset()

    instance = await stub(drops)
    async with worker(tmp_path) as process:
        await process.meet()
        assert process.hello["signals"] == []
        await process.table(1, instance)
        await process.ask()
        assert len((await process.receive("evidence"))["signals"]) == 1
        # It says no more: whether it still took that in, nobody knows. Nor is there another one.
        path = tmp_path / "channel"
        assert process.channel is not None
        path.rename(tmp_path / "away")
        process.channel.close()
        await process.ask()
        (tmp_path / "away").rename(path)
        await process.meet()
        seen = process.hello["signals"]
        assert [(each[0], each[2], each[3]) for each in seen] == 2 * [
            ("b", instance.address, "reset")
        ]
        await process.look()
        process.channel.close()
        await process.meet()
        assert process.hello["signals"] == [], "it was heard of since"


@pytest.mark.paced
async def test_r68_sigterm_is_a_lame_duck_then_a_drain_then_0(tmp_path, stub):
    came, release = asyncio.Event(), asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            came.set()
            await release.wait()
            await conversation.answer()

    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.5, drain_s=60.0)
        await process.table(1, await stub(slow))
        busy = await process.connect()
        busy.write(GET)
        await came.wait()
        process.process.send_signal(signal.SIGTERM)
        await process.receive("leaving")
        health = await process.connect()
        health.write(b"GET /-/health HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        answer = await health.answer()
        assert (answer.status, answer.get("connection")) == (503, "close")
        # It accepts until then, however late it is.
        await process.channel.send({"type": "handed_over"})
        release.set()
        finished = await busy.answer()
        assert (finished.status, finished.get("connection")) == (200, "close")
        assert await process.end(60) == 0


async def test_r68_a_client_that_was_told_of_no_end_may_still_ask_when_idle_ones_are_closed(
    tmp_path, stub
):
    """One that has just connected, and one whose answer began before the end."""
    release = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            if b"/stream" in head:
                conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
                await release.wait()
                conversation.write(b"cd")
            else:
                await conversation.answer()

    patient = "from gateway.dataplane import listener\nlistener.LAST_CALL_S = 30.0\n"
    async with worker(tmp_path, patient) as process:
        await process.meet(lame_duck_s=0.0, drain_s=60.0)
        await process.table(1, await stub(slow))
        idle, streams = await process.connect(), await process.connect()
        idle.write(GET)
        assert (await idle.answer()).get("connection") is None
        streams.write(GET.replace(b"/x", b"/stream"))
        await streams.reader.readuntil(b"\r\n\r\nab")
        fresh = await process.connect()
        await process.look()
        await process.told_to_go()
        assert await idle.at_end() == b""
        fresh.write(GET)
        answer = await fresh.answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        release.set()
        assert await streams.reader.readexactly(2) == b"cd"
        streams.write(GET)
        answer = await streams.answer()
        assert (answer.status, answer.get("connection")) == (200, "close")
        assert await process.end(60) == 0


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
        assert await process.end(60) == 0
        assert process.counted() == {("GET", "503", "draining"): 1, ("GET", "200", "draining"): 1}


async def test_r70_what_was_counted_last_outlives_the_worker(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=1.0)
        await process.table(1, await stub())
        for _ in range(3):
            assert (await process.ask()).status == 200
        await process.told_to_go()
        assert await process.end(60) == 0
        assert process.counted() == {("GET", "200", ""): 3}


async def test_r70_what_a_killed_worker_counted_stays_counted(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet()
        await process.table(1, await stub())
        for _ in range(3):
            assert (await process.ask()).status == 200
        await process.look()
        process.process.kill()
        await process.process.wait()
        assert process.counted() == {("GET", "200", ""): 3}


@pytest.mark.paced
async def test_r68_a_second_sigterm_ends_it_within_a_second(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=30.0, drain_s=30.0)
        await process.table(1, await stub())
        process.process.send_signal(signal.SIGTERM)
        await process.receive("leaving")  # two at once would be one
        async with Stretch() as work:
            began = time.monotonic()
            process.process.send_signal(signal.SIGTERM)
            assert await process.end(60) == 0
            ended = time.monotonic()
        assert ended - began < work.between(began, ended)


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
        await process.channel.send({"type": "handed_over"})
        assert await process.end(60) == 0


async def test_r68_a_worker_told_to_go_says_so_again_to_who_takes_over(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=5.0)
        await process.table(1, await stub())
        assert (await process.ask()).status == 200  # it listens
        process.process.send_signal(signal.SIGTERM)
        await process.receive("leaving")
        for _ in range(50):  # each takes its loop a turn or more: by then it waits for a successor
            await process.look()
        assert process.channel is not None
        process.channel.close()
        await process.meet()
        assert (process.hello["listening"], process.hello["leaving"]) == (True, True)
        await process.channel.send({"type": "handed_over"})
        assert await process.end(60) == 0


async def test_r68_a_worker_without_a_control_process_waits_for_no_successor(tmp_path, stub):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.3, drain_s=5.0)
        await process.table(1, await stub())
        assert process.channel is not None
        assert (await process.ask()).status == 200  # it listens
        (tmp_path / "channel").unlink()
        process.channel.close()
        process.process.send_signal(signal.SIGTERM)
        assert await process.end(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_before_the_first_table_is_a_clean_end(tmp_path, number):
    async with worker(tmp_path) as process:
        await process.meet()
        process.process.send_signal(number)
        assert await process.end(60) == 0


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

        before, began = switches(), time.monotonic()
        await asyncio.sleep(2.0)
        assert (switches() - before) / (time.monotonic() - began) < 10


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


async def test_a_worker_that_leaves_does_not_wait_for_a_control_process_that_is_not_there(
    tmp_path, stub
):
    async with worker(tmp_path) as process:
        await process.meet(lame_duck_s=0.0, drain_s=5.0)
        await process.table(1, await stub())
        assert process.channel is not None
        process.channel.close()
        await process.channels.get()  # the socket is there, and nobody speaks
        process.process.send_signal(signal.SIGTERM)
        assert await process.end(60) == 0

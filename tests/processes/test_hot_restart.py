"""A gateway that is replaced by another process: real ones, under load."""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.store.state_directory import running_in
from gateway.processes.sockets import bind, bind_more, dealt
from gateway.processes.successor import Succession
from gateway.wire.channel import Channel
from gateway.wire.succession import NAME
from tests.harness.accounting import assert_counted
from tests.harness.gateway import ROOT, Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Client, Reply, failures
from tests.harness.origins import after, origins
from tests.harness.succession import Adopted, adopt, command, holder, upgrade

from .test_supervisor import running
from .waiting import descendants, until

REPLACED = {"workers": 2, "lame_duck": "2s", "drain": "20s"}


def told(gateway: Gateway, replies: list[Reply]) -> str:
    """What went wrong, by which revision, after how long, when, and what the gateway says of it
    beside its edits."""
    began = replies[0].intended
    wrong = Counter(
        (
            each.header("x-headgate-error") or each.error,
            each.header("x-headgate-revision"),
            round(each.took_s, 1),
            round(each.done - began, 1),
        )
        for each in replies
        if not each.ok
    )
    lines = [line for line in gateway.log_text().splitlines() if '"event":"revision' not in line]
    return "\n".join([f"{wrong} of {len(replies)}", *lines[-60:]])


class Load:
    """Clients that each ask again when they were answered: some on a connection that they keep,
    others on a new one each time. As many as the machine will have."""

    def __init__(self, gateway: Gateway, clients: int = 3, pause_s: float = 0.01) -> None:
        self._url, self._pause_s, self._enough = gateway.url, pause_s, False
        self.replies: list[Reply] = []
        kinds = [self._keeping, self._opening] * clients
        self._tasks = [asyncio.create_task(kind(Client())) for kind in kinds]

    async def _keeping(self, client: Client) -> None:
        while not self._enough:
            # What an idle connection's end meets, any client of HTTP asks once more.
            self.replies.append(await client.get(f"{self._url}/kept", timeout=60))
            await asyncio.sleep(self._pause_s)
        await client.close()

    async def _opening(self, client: Client) -> None:
        close = [("Connection", "close")]
        while not self._enough:
            self.replies.append(await client.post(f"{self._url}/new", headers=close, timeout=60))
            await asyncio.sleep(self._pause_s)

    async def ended(self) -> list[Reply]:
        self._enough = True
        await asyncio.gather(*self._tasks)
        return self.replies


class Edits:
    """Somebody who edits all the time, each time what nobody had before."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._enough = False
        self.acknowledged = 0
        self.replies: list[Reply] = []
        self._task = asyncio.create_task(self._edit())

    async def _edit(self) -> None:
        client, weight = Client(), 2
        url = f"{self._gateway.admin_url}/admin/v1/routes/all/weights"
        while not self._enough:
            reply = await client.json("PUT", url, {"main": weight}, timeout=60)
            self.replies.append(reply)
            if reply.status != 200:
                break
            self.acknowledged = weight
            weight += 1
            await asyncio.sleep(0.05)
        await client.close()

    async def some_more(self) -> None:
        """Returns when three more were acknowledged."""
        before = self.acknowledged
        await eventually(lambda: self.acknowledged > before + 2 or self._task.done(), 60)
        assert not self._task.done(), self.replies[-1]

    async def ended(self) -> None:
        self._enough = True
        await self._task
        assert [each.status or each.error for each in self.replies if not each.ok] == []


async def weight(gateway: Gateway) -> int:
    reply = await gateway.admin("GET", "/admin/v1/routes/all/weights")
    weights: Any = reply.json()["weights"]
    return int(weights["main"])


async def replaced_under_load(gateway: Gateway, enough: int, **load_like: Any) -> list[Reply]:
    """Replaces the gateway, again and again until there were `enough` requests."""
    load, edits = Load(gateway, **load_like), Edits(gateway)
    await edits.some_more()
    while True:
        await upgrade(gateway)
        await edits.some_more()
        if len(load.replies) >= enough:
            break
    await edits.ended()
    replies = await load.ended()
    assert failures(replies) == [], told(gateway, replies)
    assert await weight(gateway) >= edits.acknowledged
    await assert_counted(gateway, replies)
    return replies


async def test_a_gateway_is_replaced_under_load_and_nothing_is_refused_cut_or_lost() -> None:
    async with origins(2, after(0.005)) as stubs:
        async with running_gateway(one_backend(*stubs), **REPLACED) as gateway:
            old = await gateway.worker_pids()
            assert len(await replaced_under_load(gateway, 100)) > 100
            assert not {*old} & {*await gateway.worker_pids()}
            health = await gateway.client.get(f"{gateway.url}/-/health", fresh=True)
            assert health.status == 200
            await gateway.logged("serves now; this one finishes what it has")


@pytest.mark.soak
async def test_20000_requests_while_gateways_replace_each_other_and_none_is_refused_or_cut() -> (
    None
):
    async with origins(2, after(0.002)) as stubs:
        async with running_gateway(one_backend(*stubs), **REPLACED) as gateway:
            load = {"clients": 8, "pause_s": 0.0}
            assert len(await replaced_under_load(gateway, 20_000, **load)) >= 20_000


async def revision_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """By which table one more request on this connection is decided."""
    writer.write(b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n")
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().lower()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    await reader.readexactly(int(fields["content-length"]))
    return int(fields["x-headgate-revision"])


async def test_fewer_workers_take_over_every_socket_and_a_table_in_memory() -> None:
    """And workers that finish what they have are told of edits: none is in force before."""
    async with origins(1, after(0.005)) as (stub,):
        settings = {**REPLACED, "store": "memory", "lame_duck": "60s"}
        async with running_gateway(one_backend(stub), check_end=False, **settings) as gateway:
            old = gateway.process
            await gateway.set_weights("all", {"main": 77})
            gateway.document["gateway"]["workers"] = 1  # type: ignore[index]
            gateway.write_file()
            load = Load(gateway)
            kept = await asyncio.open_connection("127.0.0.1", gateway.data_port)
            assert await revision_on(*kept) == 2
            code, out = await command(gateway, "upgrade")
            assert code == 0, out + gateway.log_text()[-3000:]
            assert await weight(gateway) == 77
            edit = await gateway.set_weights("all", {"main": 78})
            assert edit["applied"] == {"workers": 1}
            assert await revision_on(*kept) == edit["revision"]
            code, out = await command(gateway, "upgrade")
            assert (code, "workers of the gateway before this one" in out) == (1, True), out
            kept[1].close()
            replies = await load.ended()
            assert failures(replies) == [], told(gateway, replies)
            assert old is not None
            old.send_signal(signal.SIGTERM)  # it has a minute for clients that are gone
            await adopt(gateway, holder(gateway))
            assert (await gateway.set_weights("all", {"main": 79}))["applied"] == {"workers": 1}
            assert len(await gateway.worker_pids()) == 1


# A control process that never begins, for as long as it has its parent.
DAWDLES = """
import os, sys, time
while "_control" in sys.orig_argv and str(os.getppid()) == os.environ["HEADGATE_PARENT"]:
    time.sleep(0.05)
"""


async def test_a_successor_that_does_not_become_ready_leaves_the_one_that_runs_with_all(
    tmp_path: Path,
) -> None:
    async with origins(1, after(0.005)) as (stub,):
        async with running_gateway(one_backend(stub), **REPLACED) as gateway:
            load, edits = Load(gateway), Edits(gateway)
            old = holder(gateway), await gateway.worker_pids()

            # too slow: it has the state already, and gives it back
            code, out = await command(gateway, "upgrade", "--timeout", "0.2")
            assert code == 1
            assert "not replaced, and the gateway serves on: it was not ready within 0.2 s" in out

            # killed, with the state in its hands
            (tmp_path / "sitecustomize.py").write_text(DAWDLES)
            slow = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            starts = await taking(gateway, asyncio.subprocess.DEVNULL, **slow)
            await until(lambda: bool(descendants(starts.pid)), 60)
            starts.kill()
            await starts.wait()
            ended = "does not take over: it ended before it was ready"
            await eventually(lambda: ended in gateway.log_text(), 60)

            # a file that does not hold
            good = gateway.file.read_text()
            gateway.file.write_text(good.replace("weight", "wait") + "\nbackend: {}\n")
            code, out = await command(gateway, "upgrade")
            assert (code, "did you mean backends?" in out) == (1, True), out
            gateway.file.write_text(good)

            await edits.some_more()
            await edits.ended()
            replies = await load.ended()
            assert failures(replies) == [], told(gateway, replies)
            assert (holder(gateway), await gateway.worker_pids()) == old
            await assert_counted(gateway, replies)


async def taking(gateway: Gateway, stderr: Any, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "gateway", str(gateway.file), "--take-over",
        "--state-dir", str(gateway.folder / "state"),
        cwd=ROOT, stdout=stderr, stderr=stderr, start_new_session=True,
        env={**os.environ, **environment},
    )  # fmt: skip


async def test_a_second_start_takes_over_and_none_takes_over_what_is_told_to_stop() -> None:
    async with origins(1) as (stub,):
        settings = {**REPLACED, "lame_duck": "0s"}
        async with running_gateway(one_backend(stub), check_end=False, **settings) as gateway:
            with gateway.log.open("ab") as log:
                second = await taking(gateway, log)
            await adopt(gateway, second.pid)
            assert holder(gateway) == second.pid
            assert (await gateway.client.get(gateway.url)).status == 200

            third = await asyncio.to_thread(begun, gateway)
            third.inherit(2).close()
            await third.take()  # and does not serve: it has no processes
            told: list[str] = []
            following = asyncio.create_task(third.follow(told.append))
            second.send_signal(signal.SIGTERM)
            await asyncio.wait_for(following, 60)
            assert told == ["the gateway that runs was told to stop"]
            third.close("")
            assert await asyncio.wait_for(second.wait(), 60) == 0

            with gateway.log.open("ab") as log:
                anew = await taking(gateway, log)
            gateway.process = Adopted(anew.pid)  # type: ignore[assignment]
            await eventually(gateway.answers, 60)
            await gateway.logged("no gateway runs with this state: this one starts anew")
            anew.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(anew.wait(), 60) == 0


def begun(gateway: Gateway) -> Succession:
    """The talk of a successor with the gateway that runs."""
    directory = running_in(gateway.folder / "state")
    assert directory is not None
    talk = Succession.begin(directory)
    assert talk is not None
    return talk


async def test_a_successor_that_ends_as_it_says_that_it_serves_costs_nothing() -> None:
    async with origins(1) as (stub,):
        async with running_gateway(one_backend(stub), **REPLACED) as gateway:
            assert gateway.process is not None
            for served in (False, True):
                ends = await asyncio.to_thread(begun, gateway)
                (await asyncio.to_thread(ends.inherit, 2)).close()
                await ends.take()
                # The gateway reads of all of it only when it is over.
                gateway.process.send_signal(signal.SIGSTOP)
                if served:
                    ends.serves()
                ends.close("it was not meant to be")
                await ends.follow(lambda why: None)
                gateway.process.send_signal(signal.SIGCONT)
                lines = 1 + int(served)
                await eventually(lambda: gateway.log_text().count("does not take over") == lines)
                assert (await gateway.set_weights("all", {"main": 5 + lines}))["applied"]
                assert (await gateway.client.get(gateway.url)).status == 200


async def asked(directory: Path, message: dict[str, Any]) -> dict[str, Any]:
    channel: Channel[Any, Any] = await Channel.open(str(directory / NAME))
    await channel.send(message)
    answer: dict[str, Any] = await channel.receive()
    channel.close()
    return answer


async def test_below_headgate_up_one_line_says_how_to_do_it() -> None:
    async with running(placed={}) as it:
        await until(lambda: bool(it.ready))
        for message in (
            {"type": "upgrade", "program": ["false"], "environment": {}, "within_s": 1},
            {"type": "take_over", "pid": os.getpid(), "memory": 1, "workers": 1},
        ):
            answer = await asked(it.supervisor.directory.path, message)
            assert answer["type"] == "failed"
            assert "headgate instance" in answer["why"]


async def test_a_program_that_cannot_be_run_or_says_nothing_is_told() -> None:
    async with running() as it:
        await until(lambda: bool(it.ready))
        for program, told in ((["/no/such"], "cannot be run"), (["false"], "ended with code 1")):
            message = {"type": "upgrade", "program": program, "environment": {}, "within_s": 60}
            answer = await asked(it.supervisor.directory.path, message)
            assert (answer["type"], told in answer["why"]) == ("failed", True), answer
        assert await it.pid_that_answers()


def test_sockets_are_dealt_so_that_each_is_somebodys_and_nobody_has_none() -> None:
    sockets: list[Any] = [*"abcde"]
    assert dealt(sockets, 2) == [["a", "c", "e"], ["b", "d"]]
    assert dealt(sockets[:2], 3) == [["a"], ["b"], ["a"]]
    assert dealt(sockets[:1], 1) == [["a"]]


def test_sockets_at_the_address_are_kept_and_others_closed() -> None:
    there = bind("127.0.0.1:0", 2)
    port = there[0].getsockname()[1]
    more = bind_more(f"127.0.0.1:{port}", 3, there)
    try:
        assert more[:2] == there
        assert {each.getsockname()[1] for each in more} == {port}
        assert len(more) == 3
        assert bind_more("127.0.0.1:0", 1, more) == more, "any port will do"
        elsewhere = bind_more("127.0.0.2:0", 1, more) if sys.platform == "linux" else []
        assert not elsewhere or more[0].fileno() == -1
        for each in elsewhere:
            each.close()
    finally:
        for each in more:
            each.close()

"""R68: SIGTERM under load fails no request, and a dead worker is replaced without one refused."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from psutil import NoSuchProcess

from tests.harness.accounting import assert_counted
from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.load import Client, failures, get_each, open_loop, post_each
from tests.harness.origins import Exchange, Responder, after, events, one_origin, origins
from tests.harness.wire import wire
from tests.processes.waiting import alive
from tests.requirements.test_r24_killed_instance import RATES
from tests.requirements.test_r43_client_leaves import WEBSOCKET, accept

STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def streams_until(ended: asyncio.Event) -> Responder:
    """A WebSocket, events that end when they may or never, or a plain answer."""

    async def respond(exchange: Exchange) -> None:
        if exchange.header("upgrade"):
            await accept(exchange)
        elif exchange.target == b"/short":
            exchange.write(STREAM)
            while not ended.is_set():
                exchange.write(b"9\r\ndata: 1\n\n\r\n")
                await exchange.sleep(0.1)
            exchange.write(b"0\r\n\r\n")
        elif exchange.target == b"/endless":
            await events(10_000, 0.1)(exchange)
        else:
            await after(0.02)(exchange)

    return respond


@RATES
@pytest.mark.paced  # a client that is starved for a lame duck's time meets its end
async def test_r68_sigterm_costs_no_request_and_ends_streams_and_websockets_in_order(
    rate: int,
) -> None:
    settings = {"workers": 2, "lame_duck": None, "drain": "4s"}
    is_lame_no_more = asyncio.Event()
    async with origins(2, streams_until(is_lame_no_more)) as stubs:
        async with running_gateway(one_backend(*stubs), check_end=False, **settings) as gateway:
            assert gateway.process is not None
            client = Client()
            short = asyncio.create_task(client.get(f"{gateway.url}/short"))
            endless = asyncio.create_task(client.get(f"{gateway.url}/endless"))
            # Until two seconds before the lame duck's end, for a client that comes late.
            load = asyncio.create_task(open_loop(gateway.url, rate, 4.0, post_each, timeout=60))
            async with wire(gateway.data_port) as socket:
                await socket.send(WEBSOCKET)
                await socket.read_until(b"\r\n\r\n")
                del socket.received[:]
                await asyncio.sleep(1)
                asked = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(2.5)
                health = await client.get(f"{gateway.url}/-/health", fresh=True)
                replies = await load
                await socket.read_until(b"\x03\xe9")
                closed_s = time.monotonic() - asked
                is_lame_no_more.set()
            finished, cut = await short, await endless
            await client.close()
            took = await gateway.ended(0, asked, 60)
    assert max(r.done for r in replies) < asked + 5, "asked after the lame duck's end"
    assert failures(replies) == []
    late = [r for r in replies if r.intended > asked + 1.5]  # both workers have been told
    assert late
    assert all(r.header("connection").lower() == "close" for r in late)
    assert (health.status, health.header("connection").lower()) == (503, "close")
    assert failures([finished]) == []
    assert cut.error in ("closed_mid_body", "reset_mid_body")
    cut_s = cut.done - asked
    assert closed_s >= 5, f"the WebSocket was closed after {closed_s:.2f} s"
    assert min(cut_s, took) >= 5 + 4
    assert closed_s <= 6, f"the WebSocket was closed after {closed_s:.2f} s"
    assert cut_s <= 5 + 4 + 0.5, cut_s
    assert took <= 5 + 4 + 2, took


@pytest.mark.paced  # a client that is starved for a lame duck's time meets its end
async def test_r68_workers_replaced_one_after_the_other_cost_no_request_and_no_count() -> None:
    async with origins(2, after(0.005)) as stubs:
        settings = {"workers": 2, "lame_duck": "2s"}
        async with running_gateway(one_backend(*stubs), **settings) as gateway:
            load = asyncio.create_task(open_loop(gateway.url, 80, 9, post_each, timeout=60))
            for old in await gateway.worker_pids():
                await asyncio.sleep(1)
                os.kill(old, signal.SIGTERM)

                async def replaced(old: int = old) -> bool:
                    workers = (await gateway.status())["workers"]
                    pids = [each["pid"] for each in workers if each["connected"]]
                    return len(pids) == 2 and old not in pids

                await eventually(replaced, what="a new worker in the place of the old")
            replies = await load
            assert failures(replies) == []
            await assert_counted(gateway, replies)


@pytest.mark.paced
async def test_r68_a_worker_that_still_has_a_stream_has_its_successor_already() -> None:
    """Nobody waits for the start of the one or for the end of the other."""
    ended = asyncio.Event()
    async with origins(2, streams_until(ended)) as stubs:
        settings = {"workers": 1, "lame_duck": "0s", "drain": "120s"}
        async with running_gateway(one_backend(*stubs), **settings) as gateway:
            client = Client()
            stream = asyncio.create_task(client.get(f"{gateway.url}/short", timeout=120))
            load = asyncio.create_task(open_loop(gateway.url, 50, 6, post_each, timeout=60))
            await asyncio.sleep(1)
            (old,) = await gateway.worker_pids()
            told = time.monotonic()
            os.kill(old, signal.SIGTERM)

            async def replaced() -> bool:
                (worker,) = (await gateway.status())["workers"]
                return worker["connected"] and worker["pid"] != old

            await eventually(replaced, what="a new worker while the old one finishes")
            replies = await load
            assert not stream.done(), "the old one was still at it"
            # Who is starved for longer than a connection's last call meets its end.
            assert all(r.status for r in replies), [r.error for r in replies if not r.status]
            ended.set()
            finished = await stream
            await client.close()
            await eventually(lambda: not psutil.pid_exists(old), what="the end of the old one")
            await assert_counted(gateway, [*replies, finished])
    assert failures([*replies, finished]) == []
    slow = [round(r.took_s, 3) for r in replies if r.intended > told and r.took_s > 0.5]
    assert slow == [], (slow, "requests waited for somebody to accept them")


async def test_r68_sigterm_during_edits_is_clean_and_keeps_what_was_acknowledged() -> None:
    async with origins(1) as stubs:
        async with running_gateway(one_backend(*stubs), check_end=False) as gateway:
            acknowledged: list[tuple[int, int]] = []

            async def edit() -> None:
                path = "/admin/v1/routes/all/weights"
                for weight in range(2, 1_000_000):
                    reply = await gateway.admin("PUT", path, {"main": weight})
                    if reply.status != 200:
                        return
                    acknowledged.append((reply.json()["revision"], weight))

            editing = asyncio.create_task(edit())
            await eventually(lambda: len(acknowledged) >= 20, what="edits go on")
            assert gateway.process is not None
            asked = time.monotonic()
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.ended(0, asked, 60)
            await editing
            again = Gateway(gateway.folder, gateway.document, {})
            try:
                await again.start()
                table = (await again.admin("GET", "/admin/v1/table")).json()
                weights = (await again.admin("GET", "/admin/v1/routes/all/weights")).json()
            finally:
                await again.stop()
    revision, weight = acknowledged[-1]
    assert table["revision"] in (revision, revision + 1)
    assert weights["weights"]["main"] == weight + table["revision"] - revision


@pytest.mark.paced
async def test_r68_a_stream_is_cut_at_the_drain_limit_and_a_second_sigterm_ends_at_once() -> None:
    async with origins(1, events(1000, 0.1)) as stubs:
        settings = {"lame_duck": "0s", "drain": "30s"}
        async with running_gateway(one_backend(*stubs), check_end=False, **settings) as gateway:
            async with wire(gateway.data_port) as client:
                await client.send(b"GET /s HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                await client.read_until(b"data: 3")
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGTERM)
                # Two signals that nobody has taken are one.
                await eventually(lambda: listens_no_more(gateway), what="the first is taken")
                del client.received[:]
                await client.read_until(b"data: ")
                began = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                took = await gateway.ended(None, began, 60)
                await client.ends_within(60)
    assert took <= 1.5, took
    assert not client.received.endswith(b"0\r\n\r\n")


async def test_r68_who_is_cut_off_by_a_second_sigterm_is_told_and_written_down(
    tmp_path: Path,
) -> None:
    async def begin(exchange: Exchange) -> None:
        await exchange.read()
        if exchange.target == b"/stream":
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")
        await exchange.gone.wait()

    log = tmp_path / "access.log"
    settings = {"lame_duck": "0s", "drain": "30s", "access_log": str(log), "workers": 2}
    async with one_origin(begin) as origin:
        async with running_gateway(one_backend(origin), check_end=False, **settings) as gateway:
            async with wire(gateway.data_port) as waits, wire(gateway.data_port) as streams:
                await waits.send(b"GET /waits HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                await streams.send(b"GET /stream HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                await streams.read_until(b"\r\n\r\nx")
                await eventually(lambda: len(origin.traffic) == 2, what="both are there")
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGTERM)
                await eventually(lambda: listens_no_more(gateway), what="the first is taken")
                gateway.process.send_signal(signal.SIGTERM)
                await waits.read_until(b"X-Headgate-Error: draining\r\n")
                await waits.ends_within(60)
                await streams.ends_within(60)
                await gateway.ended(None, time.monotonic(), 60)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["path"], line["status"], line["reason"]) for line in lines} >= {
        ("/waits", 503, "draining"), ("/stream", 200, "draining"),
    }  # fmt: skip


async def listens_no_more(gateway: Gateway) -> bool:
    return (await gateway.client.get(f"{gateway.url}/-/health", fresh=True)).status != 200


async def test_r68_a_killed_worker_is_replaced_and_idempotent_requests_do_not_fail() -> None:
    async with origins(2, after(0.005)) as stubs:
        async with running_gateway(one_backend(*stubs), workers=2) as gateway:
            pids = await gateway.worker_pids()
            load = asyncio.create_task(open_loop(gateway.url, 60, 3, get_each, timeout=60))
            await asyncio.sleep(1)
            gone = await killed(pids[0])
            replies = await load

            async def replaced() -> bool:
                now = await gateway.worker_pids()
                return len(now) == 2 and pids[0] not in now and pids[1] in now

            await eventually(replaced, what="a new worker in the place of the old")
            refused = [r for r in replies if r.error.startswith("connect")]
            lost = [r for r in replies if not r.ok]
    assert refused == []
    assert all(r.intended <= gone for r in lost), "it was asked when it was no more"
    assert len(lost) < 60, "one second's worth, of three"


async def killed(pid: int) -> float:
    """When the process `pid` was gone: on a busy machine it goes only when it is its turn."""
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid), every_s=0.005)
    return time.monotonic()


async def test_r68_a_killed_control_process_stops_no_request_and_comes_back() -> None:
    async with origins(2, after(0.005)) as stubs:
        async with running_gateway(one_backend(*stubs), workers=2) as gateway:
            control = await gateway.control_pid()
            load = asyncio.create_task(open_loop(gateway.url, 60, 3, get_each, timeout=60))
            await asyncio.sleep(1)
            os.kill(control, signal.SIGKILL)
            replies = await load

            async def back() -> bool:
                reply = await gateway.client.get(f"{gateway.admin_url}/readyz", timeout=1)
                return reply.status == 200

            await eventually(back, what="the admin listener is back")
            answer = await gateway.set_weights("all", {"main": 7})
            assert answer["applied"]["workers"] == 2
            try:
                assert psutil.Process(control).status() == psutil.STATUS_ZOMBIE
            except NoSuchProcess:
                pass
    assert failures(replies) == []


async def test_r68_a_websocket_is_closed_with_1001() -> None:
    async with origins(1, accept) as stubs:
        settings = {"lame_duck": "0s", "drain": "1s"}
        async with running_gateway(one_backend(*stubs), check_end=False, **settings) as gateway:
            async with wire(gateway.data_port) as client:
                await client.send(WEBSOCKET)
                await client.read_until(b"\r\n\r\n")
                del client.received[:]
                assert gateway.process is not None
                began = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                await client.read_for(30)
                await gateway.ended(0, began, 60)
    assert client.received[:4] == b"\x88\x02\x03\xe9" or client.received[2:4] == b"\x03\xe9"

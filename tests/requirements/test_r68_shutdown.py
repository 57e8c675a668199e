"""R68: SIGTERM under load fails no request, and a dead worker is replaced without one refused."""

import asyncio
import os
import signal
import time

import psutil
from psutil import NoSuchProcess

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import after, events, origins
from tests.harness.wire import wire
from tests.requirements.test_r43_client_leaves import WEBSOCKET, accept


async def test_r68_sigterm_drains_without_a_failed_request_and_exits_0() -> None:
    async with origins(2, after(0.02)) as stubs:
        document = one_backend(*stubs)
        settings = {"workers": 2, "lame_duck": "2s", "drain": "5s"}
        async with running_gateway(document, check_end=False, **settings) as gateway:
            load = asyncio.create_task(
                open_loop(gateway.url, 100, 3, lambda n: Ask("POST", f"/{n}", body=b"{}"))
            )
            await asyncio.sleep(1.5)
            asked = time.monotonic()
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            health = await gateway.client.get(f"{gateway.url}/-/health", fresh=True)
            assert health.status == 503
            assert health.header("connection").lower() == "close"
            replies = await load
            took = await gateway.ended(0, asked, 15)
    assert failures(replies) == []
    late = [r for r in replies if r.intended > asked + 0.3]
    assert late
    assert all(r.header("connection").lower() == "close" for r in late)
    assert 1.5 <= took <= 2 + 5 + 2, took


async def test_r68_with_the_defaults_a_balancer_in_front_has_five_seconds_to_notice() -> None:
    async with origins(2, after(0.02)) as stubs:
        defaults = {"lame_duck": None, "drain": None}
        async with running_gateway(one_backend(*stubs), check_end=False, **defaults) as gateway:
            load = asyncio.create_task(
                open_loop(gateway.url, 50, 5, lambda n: Ask("POST", f"/{n}", body=b"{}"))
            )
            await asyncio.sleep(1)
            asked = time.monotonic()
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            replies = await load
            health = await gateway.client.get(f"{gateway.url}/-/health", fresh=True)
            took = await gateway.ended(0, asked, 15)
    assert failures(replies) == []
    assert health.status == 503
    assert 5 <= took <= 7, took


async def test_r68_a_stream_is_cut_at_the_drain_limit_and_a_second_sigterm_ends_at_once() -> None:
    async with origins(1, events(1000, 0.1)) as stubs:
        settings = {"lame_duck": "0s", "drain": "30s"}
        async with running_gateway(one_backend(*stubs), check_end=False, **settings) as gateway:
            async with wire(gateway.data_port) as client:
                await client.send(b"GET /s HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                await client.read_until(b"data: 3")
                assert gateway.process is not None
                gateway.process.send_signal(signal.SIGTERM)
                await client.read_until(b"data: 12")
                began = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                took = await gateway.ended(None, began, 5)
                await client.read_for(0.5)
    assert took <= 1.5, took
    assert client.ended
    assert not client.received.endswith(b"0\r\n\r\n")


async def test_r68_a_killed_worker_is_replaced_and_idempotent_requests_do_not_fail() -> None:
    async with origins(2, after(0.005)) as stubs:
        async with running_gateway(one_backend(*stubs), workers=2) as gateway:
            pids = await gateway.worker_pids()
            load = asyncio.create_task(open_loop(gateway.url, 60, 5, lambda n: Ask(path=f"/{n}")))
            await asyncio.sleep(1.5)
            os.kill(pids[0], signal.SIGKILL)
            replies = await load

            async def replaced() -> bool:
                now = await gateway.worker_pids()
                return len(now) == 2 and pids[0] not in now and pids[1] in now

            await eventually(replaced, 5, "a new worker in the place of the old")
            refused = [r for r in replies if r.error.startswith("connect")]
            lost = [r for r in replies if not r.ok]
    assert refused == []
    assert len(lost) <= 4, failures(replies)


async def test_r68_a_killed_control_process_stops_no_request_and_comes_back() -> None:
    async with origins(2, after(0.005)) as stubs:
        async with running_gateway(one_backend(*stubs), workers=2) as gateway:
            control = await gateway.control_pid()
            load = asyncio.create_task(open_loop(gateway.url, 60, 5, lambda n: Ask(path=f"/{n}")))
            await asyncio.sleep(1)
            os.kill(control, signal.SIGKILL)
            replies = await load

            async def back() -> bool:
                reply = await gateway.client.get(f"{gateway.admin_url}/readyz", timeout=1)
                return reply.status == 200

            await eventually(back, 5, "the admin listener is back")
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
                await client.read_for(4)
                await gateway.ended(0, began, 10)
    assert client.received[:4] == b"\x88\x02\x03\xe9" or client.received[2:4] == b"\x03\xe9"

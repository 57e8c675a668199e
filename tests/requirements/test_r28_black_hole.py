"""R28: an address that swallows connections costs its connect timeout, and others take over."""

import asyncio
import time

from tests.harness.black_hole import BlackHole
from tests.harness.gateway import backend, eventually, one_backend, running_gateway
from tests.harness.load import Client, Reply, failures, get_each, open_loop
from tests.harness.origins import Exchange, echo, events, origins
from tests.harness.own_network import drop, in_own_network
from tests.requirements.test_r24_killed_instance import DEFAULTS

CALM = {"interval": "1s", "timeout": "1s", "rise": 1, "fall": 3}


async def test_r28_a_black_hole_costs_the_connect_timeout_and_is_tried_elsewhere() -> None:
    async with origins(2) as stubs:
        document = one_backend(
            *stubs,
            health=CALM,
            timeouts={"connect": "500ms"},
            eject={"base": "1s"},
            route={"retries": {"attempts": 2, "on": ["connect_failure", "reset"]}},
        )
        async with running_gateway(document) as gateway:
            await gateway.client.get(f"{gateway.url}/warm")
            await stubs[0].stop()
            hole = BlackHole(stubs[0].port)
            try:
                replies = await open_loop(gateway.url, 10, 3, get_each)
            finally:
                hole.close()
            slow = [r for r in replies if r.took_s > 0.4]
            assert failures(replies) == []
            assert slow, "nothing was sent to the black hole"
            assert all(r.took_s < 1.5 for r in slow), [r.took_s for r in slow]
            await stubs[0].start()
            stubs[0].exchanges.clear()
            began = time.monotonic()

            async def back() -> bool:
                await gateway.client.get(f"{gateway.url}/back")
                return bool(stubs[0].exchanges)

            await eventually(back, what="traffic after the hole was filled")
            assert (took := time.monotonic() - began) <= 3.5, took


async def test_r28_many_that_meet_a_black_hole_at_once_all_move_on() -> None:
    """What was never sent burdens no instance, however many move on in one moment: clients that
    all wait meanwhile earn no budget."""
    async with origins(2) as stubs:
        document = one_backend(
            *stubs,
            health=CALM,
            balance="round_robin",
            timeouts={"connect": "1s"},
            route={"retries": {"attempts": 2, "on": ["connect_failure"]}},
        )
        async with running_gateway(document) as gateway:
            await gateway.client.get(f"{gateway.url}/warm")
            await stubs[0].stop()
            hole = BlackHole(stubs[0].port)
            try:
                asked = (gateway.client.post(f"{gateway.url}/{n}") for n in range(40))
                replies = await asyncio.gather(*asked)
            finally:
                hole.close()
    assert failures(replies) == []
    assert len([r for r in replies if r.took_s > 0.9]) > 10, "too few met the black hole"


async def test_r28_an_established_flow_that_falls_silent_ends_at_its_timeout() -> None:
    async with origins(1) as (stub,):

        async def silent(exchange) -> None:
            exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            await exchange.gone.wait()

        stub.respond = silent
        document = {
            "backends": {"main": backend(stub, timeouts={"idle": "500ms"})},
            "routes": {"all": {"match": "/", "split": {"main": 1}}},
        }
        async with running_gateway(document) as gateway:
            reply = await gateway.client.get(f"{gateway.url}/x", timeout=60)
    assert reply.error in ("closed_mid_body", "reset_mid_body")
    assert reply.took_s < 2, reply.took_s


async def stream_or_echo(exchange: Exchange) -> None:
    if exchange.target == b"/stream":
        await events(1000, 0.1)(exchange)
    else:
        await echo(exchange)


@in_own_network
async def test_r28_dropped_packets_cost_the_timeouts_and_no_idempotent_request() -> None:
    async with origins(3, stream_or_echo) as stubs:
        document = one_backend(
            *stubs,
            health=DEFAULTS,
            timeouts={"connect": "2s", "response": "1s", "idle": "1s"},
            route={
                "deadline": "5s",
                "retries": {"attempts": 3, "on": ["connect_failure", "reset", "timeout"]},
            },
        )
        async with running_gateway(document) as gateway:
            chunks: list[bytes] = []
            client = Client()
            url = f"{gateway.url}/stream"
            stream = asyncio.create_task(client.get(url, on_body=chunks.append))
            await eventually(lambda: chunks, what="the stream has begun")
            (hole,) = [s for s in stubs if any(e.target == b"/stream" for e in s.exchanges)]
            load = asyncio.create_task(open_loop(gateway.url, 50, 10, get_each))
            await asyncio.sleep(1)
            drop(hole.port)
            fell = time.monotonic()
            cut: Reply = await stream
            await asyncio.sleep(fell + 5 - time.monotonic())
            drop(hole.port, False)
            gone = time.monotonic()
            replies = await load
            await client.close()
    assert failures(replies) == []
    assert (most := max(r.took_s for r in replies)) < 5, most
    assert cut.error in ("closed_mid_body", "reset_mid_body")
    # An established flow ends when it was silent for `idle`.
    assert cut.done - fell <= 1 + 0.5, cut.done - fell
    mine = [r.intended for r in replies if r.header("x-headgate-instance") == hole.address]
    assert not any(fell + 3.5 < t < gone for t in mine), (mine, fell, gone)
    assert any(gone < t <= gone + 3 for t in mine), "no traffic 3 s after the rule went"

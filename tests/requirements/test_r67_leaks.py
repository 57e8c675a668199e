"""R67: whatever passes through, nothing of it stays behind."""

import asyncio
import random

import psutil
import pytest

from tests.harness.gateway import Gateway, eventually, one_backend, own_memory, running_gateway
from tests.harness.load import Ask, closed_loop
from tests.harness.origins import Exchange, Origin, echo, origins
from tests.harness.wire import wire
from tests.requirements.test_r43_client_leaves import WEBSOCKET, accept

NOISE = 4 << 20  # what the allocator keeps or gives back between two looks


async def mixed(exchange: Exchange) -> None:
    """Answers by what the path asks for."""
    kind = exchange.target.split(b"/")[1]
    if kind == b"reset":
        exchange.reset()
    elif kind == b"cut":
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut")
        exchange.close()
    elif kind == b"sse":
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            exchange.write(b"9\r\ndata: 1\n\n\r\n")
            await exchange.sleep(0.002)
        exchange.write(b"0\r\n\r\n")
    elif kind == b"ws":
        await accept(exchange)
    elif kind == b"slow":
        await exchange.sleep(0.5)
        await echo(exchange)
    else:
        await echo(exchange)


def make(number: int) -> Ask:
    kind = ("ok", "none", "ok", "reset", "cut", "sse", "slow", "ok", "post")[number % 9]
    leave = 0.02 if kind == "slow" else None
    if kind == "none":
        return Ask(path=f"/missing/{number}")
    if kind == "post":
        return Ask("POST", f"/all/{number}", body=random.randbytes(2000))
    return Ask(path=f"/{kind}/{number}", leave_after_s=leave)


async def _leaks(rounds: int, each: int) -> None:
    async with origins(2, mixed) as stubs:
        for stub in stubs:
            stub.record = False
        document = one_backend(*stubs, eject={"failures": 1000000})
        paths = ("ok", "reset", "cut", "sse", "slow", "all", "ws")
        document["routes"] = {p: {"match": f"/{p}", "split": {"main": 1}} for p in paths}
        async with running_gateway(document) as gateway:
            await closed_loop(gateway.url, 8, each, make)
            await _websockets(gateway, each // 50)
            family = _alive(gateway)
            fds, rss = await _footprint(gateway)
            for number in range(rounds):
                await closed_loop(gateway.url, 8, each, make)
                await gateway.set_weights("ok", {"main": number + 1})
                await _restart(stubs[number % 2])
                await _websockets(gateway, each // 50)
            for stub in stubs:
                stub.exchanges.clear()

            async def back() -> bool:
                return (await _footprint(gateway))[0] <= fds + 5

            await eventually(back, 10, "descriptors back to the baseline")
            assert len(family) == len(_alive(gateway)), "a process was replaced"
            grown = (await _footprint(gateway))[1] - rss
            slope = max(0, grown - NOISE) / (rounds * each)
            assert grown <= 10 << 20, f"{grown >> 10} KiB"
            assert slope <= 50, f"{grown >> 10} KiB, {slope:.0f} bytes a request"

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, what="nothing is in flight")
            samples = (await gateway.metrics()).samples
            assert len(samples) <= 3000, len(samples)


def _alive(gateway: Gateway) -> list[psutil.Process]:
    return [p for p in gateway.family() if p.is_running()]


async def _restart(stub: Origin) -> None:
    await stub.stop()
    await stub.start()


async def _websockets(gateway: Gateway, count: int) -> None:
    """Opens and leaves as many, one after the other."""
    for _ in range(count):
        async with wire(gateway.data_port) as client:
            await client.send(WEBSOCKET.replace(b"/x", b"/ws/x"))
            await client.read_until(b"\r\n\r\n")
            assert client.received.startswith(b"HTTP/1.1 101"), bytes(client.received)


async def _footprint(gateway: Gateway) -> tuple[int, int]:
    """Open descriptors and own resident bytes of all processes of the gateway."""
    await asyncio.sleep(0.3)
    family = _alive(gateway)
    return sum(p.num_fds() for p in family), sum(own_memory(p.pid) for p in family)


async def test_r67_mixed_traffic_leaves_nothing_behind() -> None:
    await _leaks(rounds=3, each=1200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_r67_a_hundred_thousand_requests_leave_nothing_behind() -> None:
    await _leaks(rounds=10, each=10_000)

"""R36: out of file descriptors the gateway sheds, stays calm and stays manageable."""

import asyncio
import time
from contextlib import AsyncExitStack

import psutil

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.origins import one_origin
from tests.harness.wire import wire

MAY_HAVE_MORE = ("sh", "-c", 'ulimit -Sn 128 && exec "$@"', "sh")
LIMITED = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")


async def test_r36_four_hundred_connections_on_256_descriptors() -> None:
    async with one_origin() as origin:
        async with running_gateway(one_backend(origin), prefix=LIMITED) as gateway:
            pids = await gateway.worker_pids()
            lines, began = len(gateway.log_text().splitlines()), time.monotonic()
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(wire(gateway.data_port)) for _ in range(400)
                ]
                for client in clients:
                    await client.send(b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
                await asyncio.sleep(3)
                used = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
                assert max(b - a for a, b in zip(before, used, strict=True)) < 1.5
                answered = 0
                for client in clients:
                    await client.read_some(0.001)
                    answered += client.received.startswith(b"HTTP/1.1 200")
                assert answered >= 100, answered
                assert (await gateway.admin("GET", "/admin/v1/status")).status == 200
                said = len(gateway.log_text().splitlines()) - lines
                assert said <= time.monotonic() - began + 2  # one a second

            async def normal() -> bool:
                return (await gateway.client.get(f"{gateway.url}/y", timeout=1)).status == 200

            left = time.monotonic()
            await eventually(normal, what="normal after the crowd has left")
            assert (took := time.monotonic() - left) <= 2, took


async def test_a_gateway_has_as_many_descriptors_as_it_may() -> None:
    """Most systems begin with few of those that they allow."""
    async with one_origin() as origin:
        async with running_gateway(one_backend(origin), prefix=MAY_HAVE_MORE) as gateway:
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(wire(gateway.data_port)) for _ in range(200)
                ]
                for client in clients:
                    await client.send(b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n")
                    assert (await client.read_response()).status == 200

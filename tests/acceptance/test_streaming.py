"""Nothing is collected on the way: large bodies pass in pieces, events one by one."""

import asyncio
from pathlib import Path

import pytest

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import Exchange, one_origin
from tests.harness.wire import wire

SIZE = 200 << 20
BLOCK = b"x" * (1 << 20)
ROOM = 32 << 20


async def large(exchange: Exchange) -> None:
    """Answers a body with its length, and no body with 200 MiB."""
    if exchange.method == "POST":
        await exchange.read()
        exchange.reply(200, str(exchange.length).encode())
        return
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
    for _ in range(SIZE // len(BLOCK)):
        exchange.write(BLOCK)
        await exchange.drain()


async def curl(*arguments: str) -> str:
    """What a real curl prints; it must exit 0."""
    process = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--fail", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def peak_memory(gateway: Gateway) -> int:
    """The most that the worker ever had resident, in bytes, as its kernel counts."""
    (pid,) = await gateway.worker_pids()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.timeout(180)
async def test_200_mb_up_and_down_leave_the_workers_memory_within_32_mib(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    with upload.open("wb") as file:
        file.truncate(SIZE)
    async with (
        one_origin(large) as origin,
        running_gateway(one_backend(origin, route={"max_body": "1GiB"})) as gateway,
    ):
        await curl("--data", "x", f"{gateway.url}/warm")
        before = await peak_memory(gateway)
        took = await curl("--upload-file", str(upload), "--request", "POST", f"{gateway.url}/up")
        got = await curl(f"{gateway.url}/", "--output", "/dev/null", "-w", "%{size_download}")
        assert (took, got) == (str(SIZE), str(SIZE))
        assert await peak_memory(gateway) - before <= ROOM


async def test_server_sent_events_arrive_one_by_one() -> None:
    seen = [asyncio.Event() for _ in range(5)]

    async def one_by_one(exchange: Exchange) -> None:
        """Writes none before the one ahead of it has been seen."""
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for number, event in enumerate(seen):
            exchange.write(b"data: %d\n\n" % number)
            await event.wait()
        exchange.close()

    async with (
        one_origin(one_by_one) as origin,
        running_gateway(one_backend(origin)) as gateway,
        wire(gateway.data_port) as client,
    ):
        await client.send(b"GET /stream HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        for number, event in enumerate(seen):
            await client.read_until(b"data: %d" % number)
            event.set()

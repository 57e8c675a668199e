"""The last hour outlives the processes that saw it: killed ones, and a gateway that is replaced."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from gateway.controlplane.store.state_directory import running_in
from gateway.controlplane.watch.last_hour_file import NAME, Found, read
from tests.harness.gateway import Gateway, eventually, one_backend, running_gateway
from tests.harness.origins import after, origins
from tests.harness.succession import upgrade


def left_by(gateway: Gateway) -> Found:
    """What is kept by now."""
    directory = running_in(gateway.folder / "state")
    return Found() if directory is None else read(Path(directory) / NAME)


async def with_something_kept(gateway: Gateway) -> None:
    """Edits and asks, until both are kept for whoever follows."""
    await gateway.set_weights("all", {"main": 7})

    async def is_kept() -> bool:
        await gateway.client.get(f"{gateway.url}/x")
        found = left_by(gateway)
        asked = any(("route", "all") in counts for step in found.steps for counts in step.counts)
        return asked and any(event["type"] == "edit" for event in found.events)

    await eventually(is_kept, what="a request and the edit in the file")


async def events(gateway: Gateway) -> list[dict[str, Any]]:
    """Those of the last hour, up to the first edit."""
    found = []
    stream = await asyncio.open_connection("127.0.0.1", gateway.admin_port)
    stream[1].write(b"GET /admin/v1/events?last=3600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(60):
        while not any(event["type"] == "edit" for event in found):
            line = await stream[0].readline()
            if line.startswith(b"data: "):
                found.append(json.loads(line.removeprefix(b"data: ")))
    stream[1].close()
    return found


async def shows_it(gateway: Gateway) -> None:
    """Whoever looks only now sees what was."""
    found = (await gateway.admin("GET", "/admin/v1/series?route=all")).json()["routes"]["all"]
    assert any(found["requests_per_s"]), found
    assert any(found["latency_ms"]["p50"]), found
    assert (await events(gateway))[-1]["revision"] == 2


async def test_a_killed_control_process_leaves_the_last_hour_to_the_next() -> None:
    async with origins(1, after(0.002)) as (one,), running_gateway(one_backend(one)) as gateway:
        await with_something_kept(gateway)
        first = await gateway.control_pid()
        os.kill(first, signal.SIGKILL)

        async def is_back() -> bool:
            reply = await gateway.client.get(f"{gateway.admin_url}/readyz", timeout=1)
            return reply.status == 200 and await gateway.control_pid() != first

        await eventually(is_back, what="another control process answers")
        await shows_it(gateway)


async def test_a_gateway_that_is_replaced_leaves_the_last_hour_to_its_successor() -> None:
    async with origins(1, after(0.002)) as (one,), running_gateway(one_backend(one)) as gateway:
        await with_something_kept(gateway)
        await upgrade(gateway)
        await shows_it(gateway)

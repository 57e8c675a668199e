"""Shared by the data plane's tests: rigs and stub instances that end with the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from tests.dataplane.rig import Rig, Script, StubInstance, echo


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the worker runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def stub() -> AsyncIterator[Callable[..., Awaitable[StubInstance]]]:
    started: list[StubInstance] = []

    async def start(script: Script = echo, port: int = 0, host: str = "127.0.0.1") -> StubInstance:
        instance = await StubInstance(script, host).start(port)
        started.append(instance)
        return instance

    yield start
    for instance in started:
        await instance.stop()


@pytest.fixture
async def rig() -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    started: list[Rig] = []

    async def start(**options: Any) -> Rig:
        made = await Rig(**options).start()
        started.append(made)
        return made

    yield start
    for made in started:
        await made.stop()

"""Shared by the data plane's tests: rigs and stub instances that end with the test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from gateway.dataplane import admitting, connection, upstream
from tests.dataplane.rig import Rig, Script, StubInstance, echo

MACHINES = {
    "client": (connection, connection.Connection),
    "exchange": (admitting, admitting.Admitting),
    "upstream": (upstream, upstream.Upstream),
}


class Watched:
    """A `state` that notes each transition that is not LEGAL."""

    def __init__(self, name: str, slot: Any, machine: Any, illegal: list[str]) -> None:
        self._name, self._slot, self._machine, self._illegal = name, slot, machine, illegal

    def __get__(self, who: Any, owner: type) -> Any:
        return self._slot.__get__(who, owner)

    def __set__(self, who: Any, state: int) -> None:
        words, before = self._machine.STATES, getattr(who, "state", state)
        if state != before and state not in self._machine.LEGAL[before]:
            self._illegal.append(f"{self._name}: {words[before]} to {words[state]}")
        self._slot.__set__(who, state)


@pytest.fixture(autouse=True)
def legal_transitions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, nothing moves as is not LEGAL."""
    illegal: list[str] = []
    for name, (machine, owner) in MACHINES.items():
        monkeypatch.setattr(owner, "state", Watched(name, owner.state, machine, illegal))
    yield
    assert not illegal


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
        await instance.close()


@pytest.fixture
async def rig() -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    started: list[Rig] = []

    async def start(*clock: Any, **options: Any) -> Rig:
        made = await Rig(*clock, **options).start()
        started.append(made)
        return made

    yield start
    for made in started:
        await made.stop()

"""R41: retries are paid from a budget and never made of what an instance has answered."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Reply, get_each, open_loop
from tests.harness.origins import Responder, fixed, origins, reset

RETRIES = {"attempts": 3, "on": ["connect_failure", "reset", "timeout", "503"]}


Attempts = Callable[..., Awaitable[tuple[int, list[Reply], float]]]


@asynccontextmanager
async def counting(workers: int = 1) -> AsyncIterator[Attempts]:
    """Asks for so many seconds while instances respond so: attempts, replies, how long it took."""
    async with origins(3) as stubs:
        document = one_backend(*stubs, eject={"failures": 1000000}, route={"retries": RETRIES})
        async with running_gateway(document, workers=workers) as gateway:

            async def attempts(
                respond: Responder, seconds: float
            ) -> tuple[int, list[Reply], float]:
                for stub in stubs:
                    stub.respond = respond
                    stub.exchanges.clear()
                began = time.monotonic()
                replies = await open_loop(gateway.url, 100, seconds, get_each)
                took_s = time.monotonic() - began
                return sum(len(stub.exchanges) for stub in stubs), replies, took_s

            yield attempts


@pytest.mark.parametrize("workers", [1, 4])
async def test_r41_attempts_stay_within_the_budget_when_everything_fails(workers: int) -> None:
    async with counting(workers) as attempts:
        made, replies, took_s = await attempts(reset, 3)
    assert {r.status for r in replies} == {502}
    # 3 a second, and what is saved up at the start: 3 more, or 1 for each worker.
    most = 1.1 * len(replies) + 3 * took_s + 4
    assert len(replies) < made <= most, (made, len(replies))


async def test_r41_what_an_instance_answers_is_not_retried() -> None:
    async with counting() as attempts:
        for status, headers in ((404, []), (500, []), (503, [("Retry-After", "1")])):
            made, replies, _ = await attempts(fixed(status, b"no", headers), 0.5)
            assert made == len(replies), status
            assert {r.status for r in replies} == {status}

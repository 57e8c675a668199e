"""R70: the counts equal what the clients saw, exactly, whatever went wrong in between."""

import asyncio
from collections import Counter
from typing import Any

from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Ask, Reply, open_loop
from tests.harness.origins import Exchange, echo, origins

KINDS = ("ok", "ok", "fail", "reset", "cut", "late", "ok", "leave", "none", "stuck")


async def respond(exchange: Exchange) -> None:
    """Behaves as the last part of the path says."""
    kind = exchange.target.rpartition(b"/")[2]
    await exchange.read()
    if kind == b"fail":
        exchange.reply(500, b"no")
    elif kind == b"reset":
        exchange.reset()
    elif kind == b"cut":
        exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut")
        exchange.close()
    elif kind in (b"late", b"leave", b"stuck"):
        await exchange.gone.wait()
    else:
        await echo(exchange)


def make(number: int) -> Ask:
    kind = KINDS[number % len(KINDS)]
    if kind == "none":
        return Ask(path=f"/nothing/{number}")
    leave = 0.1 if kind == "leave" else None
    return Ask("POST", f"/r{number % 2}/{kind}", body=b"{}", id=kind, leave_after_s=leave)


def client_side(replies: list[Reply]) -> Counter[str]:
    """Status codes by the contract: 499 for those who left."""
    return Counter("499" if r.error == "left" else str(r.status) for r in replies)


async def counted(gateway: Gateway) -> Counter[str]:
    """The counts by code, without what the harness itself asked to see it start."""
    metrics = await gateway.metrics()
    counts: Counter[str] = Counter()
    for sample in metrics.where("headgate_requests_total"):
        if sample.labels["route"] or sample.labels["code"] == "404":
            counts[sample.labels["code"]] += int(sample.value)
    return counts


async def _accounting(document: dict[str, Any], workers: int) -> None:
    async with running_gateway(document, workers=workers) as gateway:
        replies = await open_loop(gateway.url, 100, 4, make)
        seen = client_side(replies)

        async def equal() -> bool:
            return await counted(gateway) == seen

        try:
            await eventually(equal, 3, "the counts equal what the clients saw")
        except AssertionError:
            assert await counted(gateway) == seen
        metrics = await gateway.metrics()
        for route in ("r0", "r1"):
            mine = [r for r in replies if r.header("x-headgate-route") == route and r.status]
            ok = [r for r in mine if r.status == 200]
            total = metrics.total("headgate_requests_total", route=route, code="200")
            assert total == len(ok), route
        per_backend = metrics.by("headgate_requests_total", "backend", code="200")
        for name in ("a", "b"):
            mine = [r for r in replies if r.header("x-headgate-backend") == name]
            assert per_backend.get(name, 0) == len([r for r in mine if r.status == 200])
        assert metrics.total("headgate_in_flight") == 0


async def test_r70_every_request_is_counted_once_by_what_the_client_saw() -> None:
    async with origins(4, respond) as stubs:
        more = {"timeouts": {"response": "300ms"}, "eject": {"failures": 1000000}}
        document = {
            "backends": {"a": backend(*stubs[:2], **more), "b": backend(*stubs[2:], **more)},
            "routes": {
                "r0": {"match": "/r0", "split": {"a": 90, "b": 10}},
                "r1": {"match": "/r1", "split": {"a": 50, "b": 50}},
            },
        }
        await _accounting(document, workers=2)


async def test_r70_attempts_are_counted_apart_from_requests() -> None:
    async with origins(2, respond) as stubs:
        document = {
            "backends": {"a": backend(*stubs, eject={"failures": 1000000})},
            "routes": {
                "r0": {
                    "match": "/r0",
                    "split": {"a": 1},
                    "retries": {"attempts": 2, "on": ["reset"]},
                }
            },
        }
        async with running_gateway(document) as gateway:
            replies = []
            for _ in range(5):
                replies.append(await gateway.client.get(f"{gateway.url}/r0/reset"))
                await asyncio.sleep(0.1)
            metrics = await gateway.metrics()
        assert {r.status for r in replies} == {502}
        assert metrics.total("headgate_requests_total", route="r0") == 5
        retried = metrics.total("headgate_retries_total", reason="reset")
        assert sum(len(stub.exchanges) for stub in stubs) == 5 + retried

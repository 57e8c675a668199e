"""R70: the counts equal what the clients saw, exactly, whatever went wrong in between."""

import asyncio
import json
from collections import Counter, defaultdict
from typing import Any

from tests.harness.accounting import assert_counted, code_of
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import Exchange, echo, origins

KINDS = ("ok", "ok", "fail", "reset", "cut", "late", "ok", "leave", "none", "stuck")


class Leavers:
    """Clients that leave once an instance has what they asked for: who leaves before the gateway
    has read a head has asked for nothing."""

    def __init__(self) -> None:
        self._arrived: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def ask(self, name: str) -> Ask:
        headers = [("X-Test-Id", name)]
        return Ask("POST", "/left/leave", headers, b"{}", "leave", leave_when=self._arrived[name])

    async def respond(self, exchange: Exchange) -> None:
        await exchange.read()
        self._arrived[exchange.id].set()
        await exchange.gone.wait()


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
    elif kind in (b"late", b"stuck"):
        await exchange.gone.wait()
    else:
        await echo(exchange)


async def _accounting(document: dict[str, Any], leavers: Leavers, workers: int) -> None:
    def make(number: int) -> Ask:
        kind = KINDS[number % len(KINDS)]
        if kind == "none":
            return Ask(path=f"/nothing/{number}")
        if kind == "leave":
            return leavers.ask(str(number))
        return Ask("POST", f"/r{number % 2}/{kind}", body=b"{}", id=kind)

    async with running_gateway(document, workers=workers) as gateway:
        load = asyncio.create_task(open_loop(gateway.url, 100, 4, make))
        for weight in range(1, 6):
            await asyncio.sleep(0.5)
            await gateway.set_weights("r1", {"a": weight, "b": 6 - weight})
        replies = await load
        await assert_counted(gateway, replies)

        async def idle() -> bool:
            return (await gateway.metrics()).total("headgate_in_flight") == 0

        await eventually(idle, what="nothing is in flight")
        wanted = Counter(
            (r.header("x-headgate-revision"), r.header("x-headgate-instance"), code_of(r))
            for r in replies
            if r.header("x-headgate-instance") and not r.header("x-headgate-error")
        )
        # Lines are written a moment after what they tell of was counted.
        await eventually(
            lambda: len(logged_lines(gateway)) >= wanted.total(), what="all are in the log"
        )
        assert Counter(logged_lines(gateway)) == wanted
    assert len({revision for revision, _, _ in wanted}) >= 5


def logged_lines(gateway: Gateway) -> list[tuple[str, str, str]]:
    """(revision, instance, code) of each request whose answer's head came from an instance."""
    lines = (gateway.folder / "access.log").read_text().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]  # and not half of one
    return [
        (str(each["revision"]), each["instance"], str(each["status"]))
        for each in entries
        if each["instance"] and each["reason"] in ("", "upstream_broke") and each["status"] != 502
    ]


async def test_r70_every_request_is_counted_once_by_what_the_client_saw() -> None:
    leavers = Leavers()
    async with origins(4, respond) as stubs, origins(2, leavers.respond) as left:
        more = {"timeouts": {"response": "300ms"}, "eject": {"failures": 1000000}}
        document = {
            "backends": {
                "a": backend(*stubs[:2], **more),
                "b": backend(*stubs[2:], **more),
                "left": backend(*left),
            },
            "routes": {
                "r0": {"match": "/r0", "split": {"a": 90, "b": 10}},
                "r1": {"match": "/r1", "split": {"a": 50, "b": 50}},
                "left": {"match": "/left", "split": {"left": 1}},
            },
        }
        await _accounting(document, leavers, workers=2)


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

            async def counted() -> bool:
                metrics = await gateway.metrics()
                return metrics.total("headgate_requests_total", route="r0") == 5

            await eventually(counted, what="five are counted")
            metrics = await gateway.metrics()
        assert {r.status for r in replies} == {502}
        retried = metrics.total("headgate_retries_total", reason="reset")
        assert sum(len(stub.exchanges) for stub in stubs) == 5 + retried

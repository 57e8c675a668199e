"""Mirrors that compare, on a whole gateway: what is told of them, and what survives whom."""

import asyncio
import gzip
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.harness.exchange import Exchange
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.origins import origins

pytestmark = pytest.mark.asyncio(loop_scope="module")
DIGIT = {"fields": {"/digit": "exact"}}


async def stable(exchange: Exchange) -> None:
    """Says the number of its question, with some noise in a score."""
    await answer(exchange, lambda number: number)


async def mirrored(exchange: Exchange) -> None:
    """The same, but for every tenth."""
    await answer(exchange, lambda number: -1 if number % 10 == 0 else number)


async def answer(exchange: Exchange, digit: Callable[[int], int]) -> None:
    """As `exchange` asks for it: JSON, large, or a stream."""
    number = int(json.loads(await exchange.read())["n"])
    target = exchange.target.decode()
    headers = [("Content-Type", "application/json")]
    body = json.dumps({"digit": digit(number), "model": exchange.origin.name}).encode()
    if target.startswith("/stream"):
        headers = [("Content-Type", "text/event-stream")]
        body = b"".join(
            b"id: %d\ndata: %d\n\n" % (id(exchange), each) for each in (1, digit(number))
        )
    elif target.startswith("/large"):
        body = json.dumps({"digit": digit(number), "more": "x" * 5000}).encode()
    elif target.startswith("/crowd") and exchange.origin.name.endswith("1"):
        await exchange.sleep(0.02)  # more come than leave
    elif target.startswith("/hangs") and exchange.origin.name.endswith("1"):
        await exchange.sleep(3600)
    elif target.startswith("/zipped") and exchange.origin.name.endswith("1"):
        headers.append(("Content-Encoding", "gzip"))
        body = gzip.compress(body)
    exchange.reply(200, body, headers)


def document(old: Any, new: Any) -> dict[str, Any]:
    kinds = {"plain": DIGIT, "stream": {}, "zipped": DIGIT, "survivor": DIGIT, "dropped": None}
    kinds |= {"leaves": DIGIT, "hangs": DIGIT}
    kinds |= {"crowd": DIGIT, "large": DIGIT, "learnt": {"fields": {"/model": "ignore"}}}
    routes = {
        name: {
            "match": f"/{name}",
            "split": {"old": 1},
            "mirror": {"backend": "new"} | ({} if compare is None else {"compare": compare}),
        }
        for name, compare in kinds.items()
    }
    return {"backends": {"old": backend(old), "new": backend(new)}, "routes": routes}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[Gateway]:
    async with origins(2, stable) as (old, new):
        new.respond = mirrored
        async with running_gateway(document(old, new), workers=2, compare_body="4KiB") as gateway:
            yield gateway


async def ask(gateway: Gateway, path: str, numbers: range) -> None:
    for number in numbers:
        body = json.dumps({"n": number}).encode()
        reply = await gateway.client.post(f"{gateway.url}/{path}", body)
        assert reply.status == 200, reply


async def mirror(gateway: Gateway, route: str) -> dict[str, Any]:
    reply = await gateway.admin("GET", f"/admin/v1/routes/{route}/mirror")
    assert reply.status == 200, reply
    return reply.json()


async def compared(gateway: Gateway, route: str, pairs: int) -> dict[str, Any]:
    """What is known of the mirror of `route` once there were so many pairs."""

    async def enough() -> dict[str, Any] | None:
        found = await mirror(gateway, route)
        return found if found["pairs"] >= pairs else None

    found: dict[str, Any] = await eventually(enough, what=f"{pairs} pairs on {route}")
    assert found["pairs"] == pairs
    return found


def compare_process(gateway: Gateway) -> psutil.Process | None:
    for each in gateway.family():
        try:
            if each.is_running() and "_compare" in each.cmdline():
                return each
        except psutil.Error:
            continue
    return None


async def test_pairs_are_compared_to_the_pair_and_the_client_sees_its_own_answer(
    gateway: Gateway,
) -> None:
    await ask(gateway, "plain", range(1, 51))
    found = await compared(gateway, "plain", 50)
    assert (found["agreement"], found["verdicts"]["differ"]) == (0.9, 5)
    assert found["interval"][0] < 0.9 < found["interval"][1]
    assert found["fields"]["/digit"]["differ"] == 5
    assert found["noise_floor"] is None
    newest = found["samples"][0]
    assert newest["differs"] == {"/digit": {"stable": 50, "mirror": -1}}
    assert "model" not in json.dumps(found["samples"])
    samples = await gateway.metrics()
    labels = {"route": "plain", "backend": "new"}
    assert samples.total("headgate_mirror_compared_total", **labels, verdict="agree") == 45
    assert samples.total("headgate_mirror_compared_total", **labels, verdict="differ") == 5


async def test_streams_are_compared_by_their_items(gateway: Gateway) -> None:
    await ask(gateway, "stream", range(5, 35))
    found = await compared(gateway, "stream", 30)
    assert found["verdicts"]["differ"] == 3
    assert found["samples"][0]["differs"] == {"/1": {"stable": "30", "mirror": "-1"}}
    assert found["noise_floor"]["agreement"] == 1.0


async def test_a_compressed_answer_is_read(gateway: Gateway) -> None:
    await ask(gateway, "zipped", range(1, 11))
    assert (await compared(gateway, "zipped", 10))["verdicts"]["differ"] == 1


async def test_what_is_too_large_is_dropped_and_counted(gateway: Gateway) -> None:
    await ask(gateway, "large", range(3))

    async def dropped() -> bool:
        return (await mirror(gateway, "large"))["verdicts"]["dropped"] == 3

    await eventually(dropped)
    assert (await mirror(gateway, "large"))["pairs"] == 0


async def test_of_requests_that_come_all_at_once_each_has_one_verdict(gateway: Gateway) -> None:
    """More than copies may be on their way: what there is no room for is counted, to the last."""
    asked = 600
    await asyncio.gather(
        *(ask(gateway, "crowd", range(first, first + asked // 60)) for first in range(60))
    )

    async def all_of_them() -> dict[str, int] | None:
        verdicts = (await mirror(gateway, "crowd"))["verdicts"]
        return verdicts if sum(verdicts.values()) >= asked else None

    verdicts = await eventually(all_of_them, what=f"{asked} verdicts")
    assert sum(verdicts.values()) == asked, verdicts
    told = await gateway.metrics()
    assert told.total("headgate_mirror_compared_total", route="crowd", backend="new") == asked


async def test_without_fields_everything_is_compared_and_the_stable_one_asked_twice(
    gateway: Gateway,
) -> None:
    await ask(gateway, "learnt", range(1, 31))
    found = await compared(gateway, "learnt", 30)
    assert found["noise_floor"]["pairs"] == 30
    assert found["verdicts"]["differ"] == 3


async def test_a_mirror_whose_answers_are_dropped_has_nothing_to_tell(gateway: Gateway) -> None:
    for route, why in (("dropped", "are dropped"), ("nobody", "no route")):
        reply = await gateway.admin("GET", f"/admin/v1/routes/{route}/mirror")
        assert reply.status == 404
        assert why in reply.json()["detail"]


async def test_a_rule_that_is_none_is_refused_by_name(gateway: Gateway) -> None:
    said = {"mirror": {"compare": {"fields": {"/digit": "same"}}}}
    reply = await gateway.admin("PATCH", "/admin/v1/routes/plain", said)
    assert reply.status == 400
    assert reply.json()["errors"][0]["pointer"].endswith("/compare/fields/~1digit")


async def replaced(gateway: Gateway, process: psutil.Process, known: int) -> None:
    """Returns once another compare process is there, and has told of more pairs of survivor than
    the `known` ones: what is asked before there is a way to it is not compared."""

    def another() -> bool:
        found = compare_process(gateway)
        return found is not None and found.pid != process.pid

    async def one_more() -> bool:
        await ask(gateway, "survivor", range(1, 2))
        return int((await mirror(gateway, "survivor"))["pairs"]) > known

    await eventually(another)
    await eventually(one_more)


async def test_what_was_counted_survives_the_compare_process_and_control(gateway: Gateway) -> None:
    await ask(gateway, "survivor", range(1, 21))
    before = await compared(gateway, "survivor", 20)
    process = compare_process(gateway)
    assert process is not None
    process.kill()
    await replaced(gateway, process, 20)
    await settled(gateway, "survivor")
    os.kill(await gateway.control_pid(), signal.SIGKILL)
    pairs = await settled(gateway, "survivor")
    await ask(gateway, "survivor", range(1, 21))
    after = await compared(gateway, "survivor", pairs + 20)
    assert after["verdicts"]["differ"] == 2 * before["verdicts"]["differ"]
    assert after["since"] == before["since"]


async def test_a_compare_process_that_hangs_is_replaced(gateway: Gateway) -> None:
    await ask(gateway, "survivor", range(1, 2))
    known = await settled(gateway, "survivor")
    process = compare_process(gateway)
    assert process is not None
    process.suspend()
    await replaced(gateway, process, known)


async def test_what_was_picked_has_a_verdict_also_where_its_worker_ends(gateway: Gateway) -> None:
    """Pairs that wait for others are compared, and copies that are still asked are counted."""
    for path in ("leaves", "hangs"):
        await ask(gateway, path, range(1, 21))
    before = await gateway.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGTERM)

    async def verdicts(path: str) -> list[int]:
        found = (await mirror(gateway, path))["verdicts"]
        return [found[word] for word in ("agree", "differ", "unanswered", "dropped")]

    async def all_there() -> bool:
        return await verdicts("leaves") == [18, 2, 0, 0] and await verdicts("hangs") == [
            0,
            0,
            0,
            20,
        ]

    await eventually(all_there)
    await eventually(lambda: not any(psutil.pid_exists(pid) for pid in before))

    async def are_replaced() -> bool:
        workers = (await gateway.status())["workers"]
        return all(each["connected"] and each["pid"] not in before for each in workers)

    await eventually(are_replaced)


async def settled(gateway: Gateway, route: str) -> int:
    """How many pairs are known, once that is more than were known of by anybody before and is the
    same at several looks."""
    seen: list[int] = []

    async def same() -> int:
        reply = await gateway.admin("GET", f"/admin/v1/routes/{route}/mirror")
        seen.append(reply.json()["pairs"] if reply.status == 200 else 0)
        last = seen[-7:]
        return seen[-1] if len(last) == 7 and len(set(last)) == 1 else 0

    found: int = await eventually(same, every_s=0.2)
    return found


async def test_without_a_mirror_that_compares_there_is_no_process() -> None:
    async with origins(2, stable) as (old, new):
        plain = {
            "backends": {"old": backend(old), "new": backend(new)},
            "routes": {"r": {"match": "/", "split": {"old": 1}, "mirror": {"backend": "new"}}},
        }
        async with running_gateway(plain) as gateway:
            assert compare_process(gateway) is None
            said = {"mirror": {"backend": "new", "compare": DIGIT}}
            reply = await gateway.admin("PATCH", "/admin/v1/routes/r", said)
            assert reply.status == 200
            await ask(gateway, "x", range(1, 11))
            await compared(gateway, "r", 10)
            process = compare_process(gateway)
            assert process is not None
            reply = await gateway.admin("PATCH", "/admin/v1/routes/r", {"mirror": None})
            assert reply.status == 200
            await eventually(lambda: not process.is_running())


async def test_a_rollout_is_held_by_the_pairs_of_its_mirror(gateway: Gateway) -> None:
    said = {"split": {"old": 1, "new": 0}, "mirror": {"compare": {**DIGIT, "noise": True}}}
    reply = await gateway.admin("PATCH", "/admin/v1/routes/plain", said)
    assert reply.status == 200, reply
    plan = {"to": "new", "steps": [1, 100], "hold": "1h", "warmup": 0, "guards": {"agreement": {}}}
    refused = await gateway.admin("PUT", "/admin/v1/routes/dropped/rollout", {**plan, "to": "old"})
    assert refused.status == 400
    reply = await gateway.admin("PUT", "/admin/v1/routes/plain/rollout", plan)
    assert reply.status == 201, reply

    async def held() -> dict[str, Any] | None:
        await ask(gateway, "plain", range(1, 41))
        found = (await gateway.admin("GET", "/admin/v1/routes/plain/rollout")).json()
        return found if found["state"] == "paused" else None

    found = await eventually(held, what="the agreement guard holds the rollout")
    guard = found["guards"]["agreement"]
    assert guard["verdict"] == "failed"
    assert guard["canary"]["requests"] <= 400
    assert guard["stable"]["events"] == 0
    assert "held" in guard["sentence"]
    reply = await gateway.admin("POST", "/admin/v1/routes/plain/rollout/abort", {})
    assert reply.status == 200

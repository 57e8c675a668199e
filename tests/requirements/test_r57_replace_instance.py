"""R57: an instance that is removed finishes what it has; one that is added again starts clean."""

import asyncio
import time

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Client, failures, get_each, open_loop, post_each
from tests.harness.origins import after, events, one_origin, origins

INSTANCES = "/admin/v1/backends/main/instances"
RISE_3 = {"interval": "200ms", "rise": 3}


async def test_r57_removing_and_adding_an_instance_under_load_costs_nothing() -> None:
    async with origins(2, after(0.05)) as (one, two):
        async with running_gateway(one_backend(one, two)) as gateway:
            enough = asyncio.Event()
            load = asyncio.create_task(
                open_loop(gateway.url, 80, 60, post_each, enough=enough, timeout=60)
            )
            await eventually(lambda: len(one.exchanges) > 20, what="traffic to it")
            reply = await gateway.admin("DELETE", f"{INSTANCES}/{one.address}")
            assert reply.status in (200, 204), reply
            removed = time.monotonic()
            await eventually(
                lambda: all(c.closed for c in one.connections), what="its connections are closed"
            )
            assert all(e.complete.is_set() for e in one.exchanges)
            sent, added = len(one.exchanges), time.monotonic()
            reply = await gateway.admin("POST", INSTANCES, {"url": one.url})
            assert reply.status in (200, 201), reply
            await eventually(lambda: len(one.exchanges) > sent + 5, what="traffic to it again")
            enough.set()
            replies = await load
    between = [r for r in replies if removed < r.intended and r.done < added]
    assert {r.header("x-headgate-instance") for r in between} <= {two.address}
    assert failures(replies) == []


async def test_r57_a_stream_of_a_removed_instance_goes_on_to_its_end() -> None:
    async with one_origin(events(25, 0.1)) as origin:
        async with running_gateway(one_backend(origin), drain="1s") as gateway:
            chunks: list[bytes] = []
            client = Client()
            stream = asyncio.create_task(client.get(f"{gateway.url}/s", on_body=chunks.append))
            await eventually(lambda: chunks, what="the stream has begun")
            reply = await gateway.admin("DELETE", f"{INSTANCES}/{origin.address}")
            assert reply.status in (200, 204), reply
            whole = await stream
            await client.close()
            await eventually(
                lambda: all(c.closed for c in origin.connections), what="its connections are closed"
            )

            async def idle() -> bool:
                return (await gateway.metrics()).total("headgate_in_flight") == 0

            await eventually(idle, what="nothing is in flight")
    assert failures([whole]) == []
    assert whole.body.count(b"data: ") == 25


async def test_r57_draining_sends_nothing_new_and_resume_undoes_it() -> None:
    async with origins(2, after(0.02)) as (one, two):
        async with running_gateway(one_backend(one, two)) as gateway:
            enough = asyncio.Event()
            load = asyncio.create_task(
                open_loop(gateway.url, 60, 60, get_each, enough=enough, timeout=60)
            )
            await eventually(lambda: len(one.exchanges) > 20, what="traffic to it")
            reply = await gateway.admin("POST", f"{INSTANCES}/{one.address}/drain")
            assert reply.status == 200, reply
            drained = time.monotonic()
            meanwhile = len(two.exchanges) + 60
            await eventually(lambda: len(two.exchanges) >= meanwhile, what="traffic to the other")
            resumed = time.monotonic()
            reply = await gateway.admin("POST", f"{INSTANCES}/{one.address}/resume")
            assert reply.status == 200, reply
            sent = len(one.exchanges)
            await eventually(lambda: len(one.exchanges) > sent, what="traffic to it again")
            enough.set()
            replies = await load
    between = [r for r in replies if drained < r.intended and r.done < resumed]
    assert len(between) > 20
    assert {r.header("x-headgate-instance") for r in between} == {two.address}
    assert failures(replies) == []


async def test_r57_replacing_the_only_instance_in_one_edit_costs_nothing() -> None:
    """Requests go on at the old one until the new one is known to be well."""
    async with origins(2, after(0.02)) as (one, two):
        async with running_gateway(one_backend(one)) as gateway:
            enough = asyncio.Event()
            load = asyncio.create_task(
                open_loop(gateway.url, 60, 60, post_each, enough=enough, timeout=60)
            )
            await eventually(lambda: len(one.exchanges) > 20, what="traffic to it")
            answered: dict[str, float] = {}
            for to in (two, one):
                sent = len(to.exchanges)
                reply = await gateway.admin(
                    "PATCH", "/admin/v1/backends/main", {"instances": [to.url]}
                )
                assert reply.status == 200, reply
                answered[to.address] = time.monotonic()
                await eventually(lambda to=to, n=sent: len(to.exchanges) > n + 20, what="traffic")
            enough.set()
            replies = await load
    assert failures(replies) == []
    between = [r for r in replies if answered[two.address] < r.intended < answered[one.address] - 2]
    assert {r.header("x-headgate-instance") for r in between} <= {two.address}


async def test_r57_an_only_instance_is_replaced_by_one_that_is_not_there_without_delay() -> None:
    async with origins(1, after(0.02)) as (one,):
        async with running_gateway(one_backend(one)) as gateway:
            reply = await gateway.admin(
                "PATCH", "/admin/v1/backends/main", {"instances": ["http://127.0.0.1:9"]}
            )
            assert reply.status == 200, reply
            refused = await gateway.client.get(f"{gateway.url}/x")
    assert (refused.status, refused.header("x-headgate-error")) == (503, "no_backend")


async def test_r57_a_route_that_one_edit_leads_to_another_backend_costs_nothing() -> None:
    """As `apply` of a file does in which the route has a new backend instead of the old one."""
    async with origins(2, after(0.02)) as (one, two):
        async with running_gateway(one_backend(one, health=RISE_3)) as gateway:
            enough = asyncio.Event()
            load = asyncio.create_task(
                open_loop(gateway.url, 60, 60, post_each, enough=enough, timeout=60)
            )
            await eventually(lambda: len(one.exchanges) > 20, what="traffic to it")
            config = one_backend(two, health=RISE_3, route={"split": {"new": 1}})
            config["backends"]["new"] = config["backends"].pop("main")
            reply = await gateway.admin("POST", "/admin/v1/apply", config)
            assert reply.status == 200, reply
            await eventually(lambda: len(two.exchanges) > 20, what="traffic to the new one")
            enough.set()
            replies = await load
    assert failures(replies) == []

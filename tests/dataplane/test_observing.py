"""What a worker tells of itself: differences, and never all of a large table at once."""

import asyncio
from typing import Any

import orjson

from gateway.dataplane.observing import AT_ONCE, Observer
from tests.dataplane.rig import until

BACKENDS = 1000


def large() -> dict[str, Any]:
    urls = ["http://127.0.0.1:9", "http://127.0.0.1:10"]
    return {
        "backends": {f"b{n}": {"instances": urls} for n in range(BACKENDS)},
        "routes": {f"r{n}": {"match": f"/{n}", "split": {f"b{n}": 1}} for n in range(BACKENDS)},
    }


async def test_r37_a_look_at_a_large_table_leaves_room_for_requests(rig):
    gateway = await rig()
    gateway.table(large())
    for n in range(BACKENDS):
        gateway.plane.counters.cell(f"r{n}", f"b{n}", "127.0.0.1:9").count(b"GET", 200, "")
    sent: list[dict[str, Any]] = []
    observer = Observer(sent.append)
    observer.look(gateway.plane, 1, reports=True)
    turns = 0
    while not sent:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 3 * BACKENDS // AT_ONCE - 1
    assert len(orjson.dumps(sent[0])) < 200, "nothing is in flight, and counters are in no message"


async def test_only_what_changed_is_told_and_what_is_gone_is_nothing(rig):
    gateway = await rig()
    gateway.table(large())
    sent: list[dict[str, Any]] = []
    observer = Observer(sent.append)
    load = gateway.plane.live.backends["b7"].instances["127.0.0.1:9"].load
    load.in_flight = 3
    observer.look(gateway.plane, 1, reports=False)
    await until(lambda: len(sent) == 1)
    assert sent[0]["in_flight"] == {"b7": {"127.0.0.1:9": 3}}
    observer.look(gateway.plane, 2, reports=False)
    await until(lambda: len(sent) == 2)
    assert sent[1]["in_flight"] == {}
    load.in_flight = 0
    observer.look(gateway.plane, 0, reports=False)
    await until(lambda: len(sent) == 3)
    assert sent[2]["in_flight"] == {"b7": {"127.0.0.1:9": 0}}
    observer.look(gateway.plane, 0, reports=False)
    observer.look(gateway.plane, 3, reports=False)
    await until(lambda: len(sent) == 4)
    assert sent[3]["id"] == 3, "a look that nobody waits for says nothing where nothing is new"


async def test_looks_end_in_the_order_in_which_they_were_asked_for(rig):
    gateway = await rig()
    gateway.table(large())
    sent: list[dict[str, Any]] = []
    observer = Observer(sent.append)
    for ident in (1, 2, 3):
        observer.look(gateway.plane, ident, reports=False)
    await until(lambda: len(sent) == 3)
    assert [each["id"] for each in sent] == [1, 2, 3]

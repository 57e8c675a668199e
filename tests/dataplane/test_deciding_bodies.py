"""Bodies that choose a route: how much of them is read, held and understood."""

import json
import random
import tracemalloc

import orjson
import pytest

from gateway.dataplane.json_fields import FieldReader
from tests.dataplane.rig import until

HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\n"
MODEL = frozenset({"model"})


def by_model(stub, **route):
    return {
        "backends": {"b": {"instances": [stub.url]}},
        "routes": {
            "r": {"match": {"path": "/x", "json": {"model": "m"}}, "split": {"b": 1}, **route}
        },
    }


def post(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_body_that_chooses_a_route_has_a_limit_of_its_own(rig, stub):
    gateway, instance = await rig(match_body=4096), await stub()
    gateway.table(by_model(instance))
    fits = b'{"model": "m", "pad": "' + b"x" * 4000 + b'"}'
    assert (await gateway.ask(post(fits))).status == 200
    refused = await gateway.ask(post(fits + b" " * 4096))
    assert refused.error == "body_too_large"
    assert b"4KiB" in refused.body
    assert b"match_body" in refused.body


async def test_the_limit_holds_for_what_is_announced_and_for_what_comes_in_chunks(rig, stub):
    gateway, instance = await rig(match_body=4096), await stub()
    gateway.table(by_model(instance))
    announced = await gateway.ask(HEAD + b"Content-Length: 5000\r\n\r\n")
    assert (announced.status, announced.error) == (413, "body_too_large")
    chunks = b"1000\r\n" + b"[" * 0x1000 + b"\r\n" + b"10\r\n" + b"[" * 16 + b"\r\n"
    chunked = await gateway.ask(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (chunked.status, chunked.error) == (413, "body_too_large")


async def test_slow_clients_hold_no_more_together_than_is_set_and_the_slowest_is_refused(rig, stub):
    gateway, instance = await rig(match_body=4096, match_memory=20_000), await stub()
    gateway.table(by_model(instance))
    slow = [await gateway.connect() for _ in range(10)]
    for number, peer in enumerate(slow, 1):
        peer.write(HEAD + b"Content-Length: 4000\r\n\r\n" + b" " * 3000)
        await until(lambda number=number: len(gateway.plane.clients) >= number)
    answers = [await peer.answer() for peer in slow[:4]]
    assert {(each.status, each.error) for each in answers} == {(503, "overloaded")}
    assert all(each.get("retry-after") for each in answers)
    assert gateway.plane.deciding.total <= 20_000
    assert (await gateway.ask(post(b'{"model": "m"}'))).status == 200
    for peer in slow:
        peer.close()
    await until(lambda: gateway.plane.deciding.total == 0)


async def test_what_was_held_of_a_body_is_free_again_when_it_went_on_its_way(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.table(by_model(instance))
    peer = await gateway.connect()
    body = b'{"model": "m", "pad": "' + b"x" * 3000 + b'"}'
    peer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
    peer.write(body[:2000])
    await until(lambda: gateway.plane.deciding.total > 2000)
    peer.write(body[2000:])
    answer = await peer.answer()
    assert answer.body == body
    assert gateway.plane.deciding.total == 0


def test_a_body_of_empty_arrays_costs_no_memory_to_search():
    body = b'{"pad": [' + b"[]," * 340_000 + b'[]], "model": "m"}'
    reader = FieldReader(MODEL)
    tracemalloc.start()
    try:
        assert reader.read(body) == {"model": "m"}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)


BAD = [
    b"", b" ", b"{", b"[1]", b"null", b'"model"', b'{"model": "m"} x', b'{"model": "m",}',
    b"\xef\xbb{}", b'\xef\xbb\xbf{"x": "\xff"}', b"\xff\xfe{\0}\0\0",
    b'{"x": NaN, "model": "m"}', b'{"x": 01}', b'{"x": 1.}', b'{"x": +1}',
    b'{"x": "\x01"}', b'{"x": "\xff"}', b'{"\xff": 1}', b'{"model": "\xc3"}', b'{"x": "\\q"}',
    b'{"x": "\\ud8"}', b'{"x": "\\ud800\\ue000"}', b'{"x": "\\ud800", "model": "m"',
    b'{"x": tru}', b'{"x": [1,]}', b'{"x" 1}',
    b"{'model': 1}", b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"model": "m"}\x00',
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_what_is_no_json_object_has_no_fields(body):
    assert FieldReader(MODEL).read(body) is None


HALF = b'{"x": ["\\ud83d"], "model": %b}'


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'\xef\xbb\xbf{"model": "m"}', "m"),
        ('{"model": "é", "x": "😀"}'.encode("utf-16"), "é"),
        ('{"model": "m"}'.encode("utf-32-le"), "m"),
        (HALF % b'"m"', "m"),
        (HALF % b'"\\ud83d\\ude00\\uD55C"', "😀한"),
        (HALF.replace(b"d83d", b"DFFF") % b"7", 7),
        (HALF % b'"\\ud83d"', ()),
        (b'{"model": 1e999}', ()),
        (b'\xef\xbb\xbf{"model": "\\ue000"}', "\ue000"),
    ],
)
def test_what_other_readers_take_for_json_is_searched_too(body, model):
    """JavaScript writes a text that it cut amid an emoji as `\\ud83d`; PowerShell, a mark."""
    assert FieldReader(MODEL).read(body) == {"model": model}


def test_a_field_that_stands_twice_is_what_it_was_last():
    assert FieldReader(MODEL).read(b'{"model": 1, "model": "m", "mod\\u0065l": 2}') == {"model": 2}


@pytest.mark.parametrize("names", [["model", "ü", "", "stream"], ["model", "ü\n", 'a"b']])
def test_fields_are_read_as_the_whole_document_would_be(names):
    chance = random.Random(7)
    scalars = [1, -0.5, True, None, "m", "é\u2028", 10**30, "", 1e300]

    def value(depth: int) -> object:
        kind = chance.random()
        if depth and kind < 0.2:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        if depth and kind < 0.4:
            return {chance.choice(names): value(depth - 1) for _ in range(chance.randrange(4))}
        return chance.choice(scalars)

    reader = FieldReader(frozenset(names))
    for _ in range(2000):
        whole = {chance.choice(names): value(3) for _ in range(chance.randrange(6))}
        body = json.dumps(whole, ensure_ascii=chance.random() < 0.5).encode()
        if chance.random() < 0.3:
            body = body[: chance.randrange(len(body))] + body[chance.randrange(len(body)) :]
        try:
            known = orjson.loads(body)
        except ValueError:
            known = None
        found = reader.read(body)
        if not isinstance(known, dict):
            assert found is None, body
            continue
        assert found is not None, body
        assert found.keys() == known.keys() & set(names), body
        for name, each in found.items():
            assert each == () if isinstance(known[name], list | dict) else each == known[name]

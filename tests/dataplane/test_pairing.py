"""What of a mirror's answers is paired with a client's, what is not, and what is dropped."""

import asyncio
from typing import Any

import pytest

from gateway.comparing.bodies import answer_of, events
from gateway.dataplane import pair_channel
from gateway.dataplane.pairing import AT_ONCE
from gateway.wire.pairs import hello, packed, unpacked
from tests.dataplane.rig import Conversation, until

COMPARE = {"fields": {"/digit": "exact"}}


class Taker(asyncio.WriteTransport):
    """Where pairs go: keeps them, and says that `behind` bytes wait."""

    def __init__(self) -> None:
        self.pairs: list[Any] = []
        self.writes = self.behind = 0

    def write(self, data: Any) -> None:
        self.writes += 1
        while data:
            end = 4 + int.from_bytes(data[:4])
            self.pairs.append(unpacked(bytes(data[4:end])))
            data = data[end:]

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return self.behind


def saying(body: bytes, status: int = 200, extra: bytes = b"") -> Any:
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(body, status, extra)

    return script


@pytest.fixture
def served(rig, stub):
    """A gateway with a stable backend and a mirror that is compared, and who takes the pairs."""

    async def make(old: Any, new: Any, compare: Any = COMPARE, **more: Any) -> Any:
        options, mirrored = more.pop("options", {}), more.pop("mirrored", {})
        stable = more.pop("stable", {})
        gateway, main, shadow = await rig(**options), await stub(old), await stub(new)
        gateway.plane.outbox.transport = taker = Taker()
        mirror = {"backend": "m", "percent": more.pop("percent", 100), "compare": compare}
        route = {"match": "/", "split": {"a": 1}, "mirror": mirror, **more}
        shadowed = {"instances": [shadow.url], **mirrored}
        backends = {"a": {"instances": [main.url], **stable}, "m": shadowed}
        gateway.table({"backends": backends, "routes": {"r": route}})
        return gateway, taker

    return make


def counted(gateway: Any, verdict: str) -> int:
    name = "headgate_mirror_compared_total"
    return gateway.plane.counters.value(name, "r", "m", verdict)


async def hang(conversation: Conversation) -> None:
    await conversation.request()
    await asyncio.sleep(3600)


REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"


async def test_both_answers_become_one_pair_and_nothing_is_held_after(served) -> None:
    json_ = b"Content-Type: application/json\r\n"
    gateway, taker = await served(saying(b'{"digit":1}', extra=json_), saying(b'{"digit":2}'))
    answer = await gateway.ask(REQUEST)
    assert answer.body == b'{"digit":1}'
    await until(lambda: len(taker.pairs) == 1)
    head, parts = taker.pairs[0]
    assert head["route"] == "r"
    assert head["request"] == answer.get("x-request-id")
    assert parts == [
        (200, "application/json", "", b'{"digit":1}'),
        (200, "", "", b'{"digit":2}'),
    ]
    assert gateway.plane.outbox.held == 0


async def test_with_noise_the_stable_version_is_asked_a_second_time(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"2"), {"noise": True})
    await gateway.ask(REQUEST)
    await until(lambda: len(taker.pairs) == 1)
    assert [body for *_, body in taker.pairs[0][1]] == [b"1", b"2", b"1"]


def telling(order: list[str], name: str, *, until: asyncio.Event | None = None) -> Any:
    """Answers `name`, and says which requests came, in `order`; copies once `until` is set."""

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            is_copy = b"x-headgate-mirror" in head.lower()
            order.append(f"{name} copy" if is_copy else name)
            if is_copy and until is not None:
                await until.wait()
            await conversation.answer(name.encode())

    return script


async def test_a_stable_version_that_takes_one_at_a_time_is_asked_again_after_its_answer(
    served,
) -> None:
    order: list[str] = []
    gateway, taker = await served(
        telling(order, "a"), telling(order, "m"), {"noise": True}, stable={"max_in_flight": 1}
    )
    for number in range(1, 4):
        assert (await gateway.ask(REQUEST)).body == b"a"
        await until(lambda count=number: len(taker.pairs) == count)
    assert [[body for *_, body in parts] for _, parts in taker.pairs] == [[b"a", b"m", b"a"]] * 3
    assert order.count("a") == order.count("a copy") == order.count("m copy") == 3
    assert gateway.plane.outbox.held == 0


async def test_who_is_asked_again_gives_way_to_a_client_and_the_pair_goes_without(served) -> None:
    order: list[str] = []
    never = asyncio.Event()
    gateway, taker = await served(
        telling(order, "a", until=never),
        telling(order, "m"),
        {"noise": True},
        stable={"max_in_flight": 1},
    )
    assert (await gateway.ask(REQUEST)).body == b"a"
    await until(lambda: "a copy" in order)
    assert not taker.pairs
    assert (await gateway.ask(REQUEST)).body == b"a"
    await until(lambda: len(taker.pairs) == 1)
    assert [body for *_, body in taker.pairs[0][1]] == [b"a", b"m"]


async def test_a_mirror_that_has_no_room_is_unanswered_and_no_difference(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"", 503, b"Retry-After: 1\r\n"))
    await gateway.ask(REQUEST)
    await until(lambda: counted(gateway, "unanswered") == 1)
    assert not taker.pairs
    assert gateway.plane.outbox.held == 0


async def test_a_mirror_that_breaks_off_is_unanswered(served) -> None:
    async def broken(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhal")
        conversation.reset()

    gateway, taker = await served(saying(b"1"), broken)
    await gateway.ask(REQUEST)
    await until(lambda: counted(gateway, "unanswered") == 1)
    assert not taker.pairs


@pytest.mark.parametrize(
    ("options", "behind"), [({"compare_body": 4}, 0), ({}, 1 << 40), ({"compare_memory": 0}, 0)]
)
async def test_what_is_too_large_or_too_much_is_dropped_and_the_client_served(
    served, options: Any, behind: int
) -> None:
    gateway, taker = await served(saying(b"12345678"), saying(b"12345678"), options=options)
    taker.behind = behind
    assert (await gateway.ask(REQUEST)).body == b"12345678"
    await until(lambda: counted(gateway, "dropped") == 1)
    assert not taker.pairs
    assert gateway.plane.outbox.held == 0


async def test_a_mirror_that_hangs_costs_clients_nothing_and_holds_a_bounded_sum(served) -> None:
    gateway, taker = await served(saying(b"1" * 1000), hang, options={"mirror_in_flight": 2})
    for _ in range(20):
        assert (await gateway.ask(REQUEST)).status == 200
    assert gateway.copies <= 2
    assert gateway.plane.outbox.held <= 2 * 3000
    assert not taker.pairs


async def test_the_clients_own_request_leaves_before_its_copy(served) -> None:
    order: list[str] = []

    def noting(name: str) -> Any:
        async def script(conversation: Conversation) -> None:
            while True:
                await conversation.request()
                order.append(name)
                await conversation.answer(b"1")

        return script

    gateway, taker = await served(noting("client"), noting("copy"))
    for number in range(1, 4):  # on connections that are there from the second one on
        await gateway.ask(REQUEST)
        await until(lambda number=number: len(taker.pairs) == number)
    assert order[2:] == ["client", "copy"] * 2


async def test_pairs_go_on_their_way_together(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"2"))
    outbox = gateway.plane.outbox
    for _ in range(20):
        assert outbox.send("r", "m", packed("r", "", -1, 0.0, [(200, "", "", b"x")] * 2))
    assert taker.writes == 0
    await until(lambda: len(taker.pairs) == 20)
    assert taker.writes == 1
    large = packed("r", "", -1, 0.0, [(200, "", "", b"x" * AT_ONCE)] * 2)
    assert outbox.send("r", "m", large)
    assert taker.writes == 2, "what is much does not wait for more"


async def test_pairs_whose_way_is_lost_before_they_leave_are_dropped(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"2"))
    outbox = gateway.plane.outbox
    outbox.send("r", "m", packed("r", "", -1, 0.0, [(200, "", "", b"x")] * 2))
    outbox.transport = None
    await until(lambda: counted(gateway, "dropped") == 1)
    assert not taker.pairs


@pytest.mark.parametrize("size", [1, 4 << 20])
async def test_pairs_that_wait_for_others_leave_with_the_worker(
    served, tmp_path, monkeypatch, size
) -> None:
    """Large ones too, which do not go in one piece."""
    monkeypatch.setattr(pair_channel, "LEAVES_WITHIN_S", 60.0)  # whoever is busy meanwhile
    gateway, _ = await served(saying(b"1"), saying(b"2"))
    outbox, came = gateway.plane.outbox, asyncio.get_running_loop().create_future()
    outbox.transport = None

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set_result(await reader.read(-1))
        writer.close()

    async with await asyncio.start_unix_server(take, tmp_path / "compare.sock"):
        way = asyncio.create_task(pair_channel.keep_open(outbox, str(tmp_path / "compare.sock")))
        outbox.wish.set()
        await until(lambda: outbox.is_open)
        pair = packed("r", "", -1, 0.0, [(200, "", "", b"x" * size)] * 2)
        assert outbox.send("r", "m", pair)
        way.cancel()
        await asyncio.gather(way, return_exceptions=True)
        assert await came == hello() + pair
    assert not outbox.is_open


async def test_copies_that_are_under_way_when_the_worker_ends_are_dropped_pairs(served) -> None:
    gateway, taker = await served(saying(b"1"), hang)
    for _ in range(3):
        assert (await gateway.ask(REQUEST)).status == 200
    gateway.plane.live.give_up_copies()
    assert counted(gateway, "dropped") == 3
    assert gateway.copies == gateway.plane.outbox.held == 0
    assert not taker.pairs


async def test_where_nobody_takes_pairs_they_are_dropped(served) -> None:
    gateway, _ = await served(saying(b"1"), saying(b"2"))
    gateway.plane.outbox.transport = None
    assert (await gateway.ask(REQUEST)).body == b"1"
    await until(lambda: counted(gateway, "dropped") == 1)


async def test_what_the_mirrors_own_backend_answered_is_no_pair(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"2"), split={"a": 0, "m": 1})
    assert (await gateway.ask(REQUEST)).body == b"2"
    await until(lambda: gateway.copies == 0)
    assert not taker.pairs
    assert gateway.plane.outbox.held == 0


async def test_an_answer_of_the_gateways_own_is_no_pair(served) -> None:
    async def silent(conversation: Conversation) -> None:
        await conversation.request()
        conversation.reset()

    gateway, taker = await served(silent, saying(b"2"))
    assert (await gateway.ask(REQUEST)).status == 502
    await until(lambda: gateway.copies == 0)
    assert not taker.pairs
    assert counted(gateway, "dropped") == 1
    assert gateway.plane.outbox.held == 0


async def test_a_client_that_leaves_is_no_pair(served) -> None:
    wait = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\na")
        await wait.wait()

    gateway, taker = await served(slow, saying(b"2"))
    peer = await gateway.connect()
    peer.write(REQUEST)
    await peer.reader.readuntil(b"\r\n\r\n")
    peer.close()
    await until(lambda: counted(gateway, "dropped") == 1)
    assert gateway.plane.outbox.held == 0
    assert not taker.pairs


async def test_a_stable_version_that_has_no_room_makes_no_pair(served) -> None:
    gateway, taker = await served(saying(b"", 503, b"Retry-After: 1\r\n"), saying(b"2"))
    assert (await gateway.ask(REQUEST)).status == 503
    await until(lambda: counted(gateway, "dropped") == 1)
    assert not taker.pairs


def of_size(size: int) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


VERDICTS = ("unanswered", "dropped")


async def test_copies_for_which_there_is_no_place_are_dropped_pairs(served) -> None:
    gateway, _ = await served(saying(b"1"), hang, options={"mirror_in_flight": 2})
    for _ in range(20):
        assert (await gateway.ask(REQUEST)).status == 200
    assert gateway.copies == 2
    assert counted(gateway, "dropped") == 18


async def test_copies_for_which_the_mirrors_instance_has_no_room_are_dropped_pairs(served) -> None:
    gateway, taker = await served(saying(b"1"), saying(b"2"), mirrored={"max_in_flight": 1})
    (instance,) = gateway.plane.live.backends["m"].instances.values()
    instance.load.in_flight = 1  # a client's own
    for _ in range(5):
        assert (await gateway.ask(REQUEST)).status == 200
    assert counted(gateway, "dropped") == 5
    assert not taker.pairs


async def test_copies_for_a_mirror_of_which_nobody_serves_are_dropped_pairs(served) -> None:
    gateway, _ = await served(saying(b"1"), saying(b"2"))
    backends = gateway.plane.live.backends
    gateway.hear({"a": dict.fromkeys(backends["a"].instances, "up")})
    assert not backends["m"].serving
    assert (await gateway.ask(REQUEST)).status == 200
    assert counted(gateway, "dropped") == 1


@pytest.mark.parametrize("size", [200, 3000])
async def test_copies_of_bodies_that_are_not_kept_are_dropped_pairs(served, size: int) -> None:
    options = {"replay": 100, "gather": 1000}
    gateway, _ = await served(saying(b"1"), saying(b"2"), options=options)
    assert (await gateway.ask(of_size(size))).status == 200
    assert counted(gateway, "dropped") == 1


async def test_a_copy_that_gives_way_to_a_client_is_a_dropped_pair(served) -> None:
    async def one_at_a_time(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            if b"x-headgate-mirror" in head.lower():
                await asyncio.sleep(3600)
            await conversation.answer(b"2")

    gateway, _ = await served(
        saying(b"1"), one_at_a_time, mirrored={"max_in_flight": 1}, override=True,
        split={"a": 1, "m": 0},
    )  # fmt: skip
    assert (await gateway.ask(REQUEST)).body == b"1"
    assert gateway.copies == 1
    direct = REQUEST.replace(b"Host: h", b"Host: h\r\nX-Headgate-Backend: m")
    assert (await gateway.ask(direct)).body == b"2"
    assert (counted(gateway, "dropped"), counted(gateway, "unanswered")) == (1, 0)


async def test_what_falls_to_the_mirrors_own_backend_is_not_copied(served) -> None:
    gateway, _ = await served(saying(b"1"), saying(b"2"), split={"a": 0, "m": 1})
    for _ in range(3):
        assert (await gateway.ask(REQUEST)).body == b"2"
    assert gateway.plane.live.backends["m"].copies == set()
    assert not any(counted(gateway, verdict) for verdict in VERDICTS)


async def test_only_the_part_that_is_asked_for_is_counted(served) -> None:
    gateway, _ = await served(saying(b"1"), hang, options={"mirror_in_flight": 1}, percent=20)
    for _ in range(200):
        await gateway.ask(REQUEST)
    picked = gateway.copies + counted(gateway, "dropped")
    assert 5 < picked < 100, "by chance"


def test_what_a_body_says() -> None:
    assert answer_of((200, "application/json", "", b'{"a": 1}')).value == {"a": 1}
    assert answer_of((200, "text/plain", "", b"\xff")).form == "bytes"
    lines = answer_of((200, "application/x-ndjson; charset=utf-8", "", b'{"a":1}\n\n{"a":2}\n'))
    assert (lines.form, lines.value) == ("stream", ['{"a":1}', '{"a":2}'])
    assert answer_of((200, "", "gzip", b"no gzip")).value == "no gzip"


def test_the_items_of_an_event_stream_are_its_data() -> None:
    body = b": hello\r\nid: 7\r\ndata: a\r\ndata: b\r\n\r\n"
    body += b"event: error\ndata: c\n\nretry: 3\n\ndata: d"
    assert events(body) == [b"a\nb", b"error: c", b"d"]

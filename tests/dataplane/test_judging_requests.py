"""While a rollout runs, requests are counted by the arm to which they were first decided."""

import asyncio
import gzip
from collections import Counter

import pytest

from gateway.core.splitting import sticky_backend
from gateway.dataplane.judge import (
    CANARY,
    ENDED,
    FAILED,
    MAX_ANSWERS,
    MAX_BODY,
    MAX_TIMES,
    OTHER,
    SLOW,
    STABLE,
    TIMED,
    Trial,
    parts_of,
    value_at,
)
from tests.dataplane.clocks import StoppedClock
from tests.dataplane.rig import Conversation, Rig, until
from tests.dataplane.test_choosing import GET, get, two

HALF = "1/2"


def told(**more):
    return {"id": "i", "to": "b", "slow_s": 0.0, "warming": False, "field": "", "edges": [], **more}


def judge(gateway: Rig, **more):
    gateway.plane.judge({"r": told(**more)})
    return gateway.plane.judges["r"]


def answering(status: int, pause_s: float = 0.0, extra: bytes = b""):
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await asyncio.sleep(pause_s)
            await conversation.answer(b"x", status, extra)

    return script


async def test_every_first_attempt_is_counted_once_by_its_arm(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(answering(500))))
    counting = judge(gateway)
    seen = Counter([(await gateway.ask(GET)).get("x-headgate-backend") for _ in range(16)])
    row = counting.counts[HALF]
    assert (row[CANARY + ENDED], row[STABLE + ENDED]) == (seen["b"], seen["a"]) == (8, 8)
    assert (row[CANARY + FAILED], row[STABLE + FAILED]) == (8, 0)


async def test_without_a_rollout_nothing_is_counted_and_after_it_neither(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub()))
    await gateway.ask(GET)
    counting = judge(gateway)
    gateway.plane.judge({})
    await gateway.ask(GET)
    assert not counting.counts


async def test_what_begins_to_count_again_takes_the_place_of_nothing_that_was_told(rig, stub):
    """One of several gateways drives a rollout, loses its lease, and drives it again."""
    gateway = await rig()
    gateway.table(two(await stub(), await stub()))
    first = judge(gateway)
    assert judge(gateway).report("w")["worker"] == first.report("w")["worker"]
    gateway.plane.judge({})
    assert judge(gateway).report("w")["worker"] != first.report("w")["worker"]


async def test_the_share_is_the_one_in_force_when_it_was_decided(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()
    gateway.table(two(one, other, split={"a": 3, "b": 1}))
    counting = judge(gateway)
    for _ in range(16):
        await gateway.ask(GET)
    gateway.table(two(one, other, split={"a": 0, "b": 5}))
    await gateway.ask(GET)
    assert {share: row[CANARY] + row[STABLE] for share, row in counting.counts.items()} == {
        "1/4": 16, "5/5": 1,
    }  # fmt: skip
    assert gateway.plane.judges["r"] is counting, "an edit forgets nothing"


async def test_where_the_canary_is_away_its_share_is_none(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()
    gateway.table(two(one, other))
    counting = judge(gateway)
    gateway.hear({"a": {one.address: "up"}, "b": {}})
    await gateway.ask(GET)
    assert list(counting.counts) == ["0/1"]


async def test_a_retry_elsewhere_leaves_the_failure_with_the_arm_that_had_it(rig, stub):
    gateway = await rig()
    gateway.table(
        two(await stub(), await stub(answering(503)), retries={"attempts": 2, "on": ["503"]})
    )
    counting = judge(gateway)
    answers = [await gateway.ask(GET) for _ in range(4)]
    assert {answer.status for answer in answers} <= {200, 503}
    row = counting.counts[HALF]
    assert row[CANARY + ENDED] == row[CANARY + FAILED] == 2
    assert row[STABLE + ENDED] == 2
    assert row[STABLE + FAILED] == 0


async def test_what_the_fallback_answers_for_the_canary_counts_for_nobody(rig, stub):
    gateway, one, canary, fallback = await rig(), await stub(), await stub(), await stub()
    document = two(one, canary, split={"a": 0, "b": 1}, on_unavailable={"fallback": "c"})
    document["backends"]["c"] = {"instances": [fallback.url]}
    gateway.table(document)
    counting = judge(gateway)
    words = {"a": {one.address: "up"}, "b": {}, "c": {fallback.address: "up"}}
    gateway.hear(words)
    assert (await gateway.ask(GET)).get("x-headgate-backend") == "c"
    assert not any(sum(row) for row in counting.counts.values())


async def test_who_waited_for_the_canary_and_was_answered_elsewhere_counts_for_nobody(rig, stub):
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.reader.read()

    gateway, one, canary = await rig(), await stub(), await stub(hang)
    document = two(one, canary, split={"a": 0, "b": 1})
    document["routes"]["r"]["on_unavailable"] = {"fallback": "a"}
    document["backends"]["b"]["max_in_flight"] = 1
    gateway.table(document)
    counting = judge(gateway)
    asking = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(3)]
    await until(lambda: len(gateway.plane.live.backends["b"].waiting) == 2)
    gateway.hear({"a": {one.address: "up"}, "b": {}})
    await until(lambda: sum(each.done() for each in asking) == 2)
    assert not any(sum(row) for row in counting.counts.values())
    await gateway.stop()
    await asyncio.gather(*asking)


async def test_a_complaint_is_no_failure(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(answering(404)), await stub(answering(404))))
    counting = judge(gateway)
    for _ in range(8):
        await gateway.ask(GET)
    row = counting.counts[HALF]
    assert row[CANARY + FAILED] == row[STABLE + FAILED] == 0
    assert row[CANARY + ENDED] == row[STABLE + ENDED] == 4


BUSY = b"Retry-After: 1\r\n"


@pytest.mark.parametrize(("status", "extra"), [(503, BUSY), (429, BUSY), (429, b"")])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_what_is_refused_as_busy_is_neither_failed_nor_well(
    rig, stub, status, extra, attempts
):
    """Nor quick: who refuses fast is no measure for those who answer."""
    gateway = await rig()
    busy = two(
        await stub(answering(status, extra=extra)), await stub(answering(status, extra=extra)),
        retries={"attempts": attempts, "on": ["503"]},
    )  # fmt: skip
    gateway.table(busy)
    counting = judge(gateway, slow_s=0.5)
    for _ in range(8):
        await gateway.ask(GET)
    told = counting.report("w")
    assert told["refused"] == {HALF: [4, 4]}
    assert not any(told["counts"][HALF])
    assert not told["times"]


@pytest.mark.parametrize(
    ("queue", "code"),
    [({"size": 0}, "queue_full"), ({"size": 9, "timeout": "50ms"}, "queue_timeout")],
)
async def test_who_found_no_room_at_the_canary_was_refused_by_it(rig, stub, queue, code):
    came = asyncio.Event()

    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        came.set()
        await conversation.reader.read()

    gateway = await rig()
    document = two(await stub(), await stub(hang), split={"a": 0, "b": 1}, on_unavailable="fail")
    document["backends"]["b"] |= {"max_in_flight": 1, "queue": queue}
    gateway.table(document)
    counting = judge(gateway)
    asking = asyncio.ensure_future(gateway.ask(GET))
    await came.wait()
    assert (await gateway.ask(GET)).get("x-headgate-error") == code
    told = counting.report("w")
    assert told["refused"] == {"1/1": [1, 0]}
    assert not any(told["counts"]["1/1"])
    await gateway.stop()
    await asking


async def test_nobody_who_listens_and_an_answer_that_breaks_off_are_failures(rig, stub):
    async def breaks(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await conversation.writer.drain()
        conversation.reset()

    gateway, gone = await rig(), await stub()
    gateway.table(two(gone, await stub(breaks), on_unavailable="fail"))
    await gone.stop()
    counting = judge(gateway)
    for _ in range(4):
        await gateway.ask(GET)
    row = counting.counts[HALF]
    assert row[CANARY + FAILED] == row[CANARY + ENDED] == 2
    assert row[STABLE + FAILED] == row[STABLE + ENDED] >= 1


async def test_an_answer_is_slow_by_the_threshold_of_the_moment_it_was_decided(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(answering(200, 0.05))))
    counting = judge(gateway)
    for _ in range(4):
        await gateway.ask(GET)
    row = counting.counts[HALF]
    assert row[STABLE + TIMED] == row[CANARY + TIMED] == 0, "none is known yet"
    assert sum(counting.report("w")["times"].values()) == 2
    judge(gateway, slow_s=0.04)
    for _ in range(4):
        await gateway.ask(GET)
    assert (row[CANARY + TIMED], row[CANARY + SLOW]) == (2, 2)
    assert row[STABLE + TIMED] == 2


async def test_of_many_times_a_report_tells_some(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub()))
    counting = judge(gateway)
    await gateway.ask(GET)
    trial = Trial(counting, STABLE, HALF)
    for _ in range(2 * MAX_TIMES):
        trial.end(False, 0.01)
    told = counting.report("w")
    assert sum(told["times"].values()) == MAX_TIMES
    assert told["counts"][HALF][STABLE + ENDED] >= 2 * MAX_TIMES
    trial.end(False, 0.01)
    assert sum(counting.report("w")["times"].values()) == MAX_TIMES + 1, "and goes on"


async def test_a_client_that_leaves_says_nothing(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(answering(200, 5.0)), await stub(answering(200, 5.0))))
    counting = judge(gateway)
    peer = await gateway.connect()
    peer.write(GET)
    await until(lambda: counting.decided is not None)
    peer.close()
    await until(lambda: gateway.count("client_left") == 1)
    assert not any(counting.counts[HALF])


async def test_a_client_that_gives_up_on_a_slow_answer_says_that_it_was_slow(rig, stub):
    asked = 0

    async def hang(conversation: Conversation) -> None:
        nonlocal asked
        await conversation.request()
        asked += 1
        await conversation.reader.read()

    gateway = await rig(StoppedClock())
    gateway.table(two(await stub(hang), await stub(hang)))
    counting = judge(gateway, slow_s=0.5)
    for count, waited_s in enumerate((0.4, 0.4, 0.6, 0.6), 1):
        peer = await gateway.connect()
        peer.write(GET)
        await until(lambda count=count: asked == count)
        gateway.later(waited_s)
        peer.close()
        await until(lambda count=count: gateway.count("client_left") == count)
    row = counting.counts[HALF]
    assert row[CANARY + TIMED] + row[STABLE + TIMED] == 2
    assert row[CANARY + SLOW] + row[STABLE + SLOW] == 2
    assert row[CANARY + ENDED] == row[STABLE + ENDED] == 0, "how it would have ended is not known"


async def test_a_client_that_waits_so_long_and_no_longer_says_that_it_was_slow(rig, stub):
    came = asyncio.Semaphore(0)

    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        came.release()
        await conversation.reader.read()

    gateway = await rig(StoppedClock())
    gateway.table(two(await stub(hang), await stub(hang)))
    counting = judge(gateway, slow_s=0.5)
    for waited_s in (b"0.4", b"0.4", b"0.6", b"0.6"):
        asking = asyncio.ensure_future(gateway.ask(get(b"X-Request-Timeout: " + waited_s)))
        await came.acquire()
        gateway.later(float(waited_s))
        assert (await asking).get("x-headgate-error") == "deadline"
    row = counting.counts[HALF]
    assert row[CANARY + TIMED] + row[STABLE + TIMED] == 2
    assert row[CANARY + SLOW] + row[STABLE + SLOW] == 2
    assert row[CANARY + ENDED] == row[STABLE + ENDED] == 0, "how it would have ended is not known"


async def test_while_it_is_warming_only_the_canarys_requests_are_counted(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub()))
    counting = judge(gateway, warming=True)
    for _ in range(8):
        await gateway.ask(GET)
    assert (counting.warmed, counting.counts) == (4, {})
    judge(gateway)
    await gateway.ask(GET)
    assert counting.counts
    assert counting.report("w")["warmed"] == 4


async def test_an_override_is_no_draw(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(), override=True))
    counting = judge(gateway)
    await gateway.ask(get(b"X-Headgate-Backend: b"))
    assert not counting.counts


async def test_a_sticky_key_has_one_event_however_often_it_fails(rig, stub):
    gateway = await rig()
    gateway.table(
        two(await stub(answering(500)), await stub(answering(500)), sticky={"header": "X-User"})
    )
    counting = judge(gateway)
    users = [b"ann", b"bob", b"cy", b"dee"]
    for user in users * 3:
        await gateway.ask(get(b"X-User: " + user))
    row = counting.counts[HALF]
    assert row[CANARY + ENDED] + row[STABLE + ENDED] == 12
    assert row[CANARY + FAILED] + row[STABLE + FAILED] == 0, "keys are told instead"
    report = counting.report("w")
    arms = Counter(arm for _, _, arm, _ in report["keys"]["errors"])
    of_b = sum(sticky_backend("r", user, [("a", 1), ("b", 1)]) == "b" for user in users)
    assert arms == Counter({CANARY: of_b, STABLE: len(users) - of_b})
    assert counting.report("w")["keys"] == {}, "once on each channel"
    counting.begin()
    assert len(counting.report("w")["keys"]["errors"]) == 4


def saying(body: bytes, status: int = 200, extra: bytes = b""):
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(body, status, extra)

    return script


async def test_answers_are_told_apart_by_what_stands_at_the_field(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(saying(b'{"a": ["x"]}')), await stub(saying(b'{"a": [null]}'))))
    counting = judge(gateway, field="/a/0")
    for _ in range(8):
        await gateway.ask(GET)
    assert counting.answers == {'"x"': {HALF: [0, 4]}, "null": {HALF: [4, 0]}}


async def test_answers_that_are_compressed_are_read(rig, stub):
    gateway = await rig()
    whole, broken = gzip.compress(b'{"a": ["x"]}'), gzip.compress(b'{"a": ["y"]}')[:-12]
    gateway.table(two(await stub(saying(whole)), await stub(saying(broken))))
    counting = judge(gateway, field="/a/0")
    for _ in range(4):
        await gateway.ask(GET)
    assert counting.answers == {'"x"': {HALF: [0, 2]}}


async def test_numbers_are_told_apart_by_parts_that_were_learned_before(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(saying(b"[0.25]")), await stub(saying(b"[7]"))))
    counting = judge(gateway, field="/0")
    for _ in range(4):
        await gateway.ask(GET)
    assert counting.answers == {}
    assert counting.report("w")["numbers"] == [0.25, 0.25], "of the others alone"
    judge(gateway, field="/0", edges=[0.2, 0.3])
    for _ in range(4):
        await gateway.ask(GET)
    assert counting.answers == {"part 2 of 3": {HALF: [0, 2]}, "part 3 of 3": {HALF: [2, 0]}}
    assert parts_of([1.0, 7.0]) == ["≤ 1", "≤ 7", "> 7"]


def test_a_place_in_a_list_is_named_by_plain_digits():
    assert value_at(b'{"a": [1, 2, 3]}', ["a", "2"]) == 3
    assert value_at(b'{"a": [1, 2, 3]}', ["a", "\u00b2"]) is ...


async def test_errors_what_is_no_json_and_what_is_large_are_no_answers(rig, stub):
    large = b'{"a": "' + b"x" * MAX_BODY + b'"}'
    for one, other in [(b'{"b": 1}', b"text"), (large, b'{"a": {}}')]:
        gateway = await rig()
        gateway.table(two(await stub(saying(one)), await stub(saying(other))))
        counting = judge(gateway, field="/a")
        assert {(await gateway.ask(GET)).status for _ in range(4)} == {200}
        assert counting.answers == {}
    gateway = await rig()
    said = b'{"a": "x"}'
    gateway.table(two(await stub(saying(said, 500)), await stub(saying(said, 422))))
    counting = judge(gateway, field="/a")
    for _ in range(4):
        await gateway.ask(GET)
    assert counting.answers == {}


async def test_kinds_of_answers_are_bounded(rig):
    counting = judge(await rig())
    for number in range(3 * MAX_ANSWERS):
        counting.note_answer(str(number), HALF, STABLE)
    assert len(counting.answers) == MAX_ANSWERS + 1
    assert counting.answers[OTHER][HALF] == [0, 2 * MAX_ANSWERS]


async def test_another_rollout_begins_with_nothing(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub()))
    first = judge(gateway)
    await gateway.ask(GET)
    assert judge(gateway) is first
    assert judge(gateway, id="j") is not first

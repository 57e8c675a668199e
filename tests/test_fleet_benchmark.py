"""What the benchmark of overload holds goodput against."""

import pytest

from benchmarks.fleet import CAPACITY, could
from tests.harness.load import Reply


def answer(instance: str, held_s: float) -> Reply:
    body = b'{"instance": "%b"}' % instance.encode()
    return Reply(200, [("X-Held-S", f"{held_s:.6f}")], body)


def test_without_an_answer_the_instances_could_do_what_they_should() -> None:
    assert could([Reply(503), Reply(error="timeout")]) == CAPACITY == 320


def test_slots_that_were_held_longer_could_do_less() -> None:
    replies = [answer("i0", 0.02), answer("i0", 0.03), answer("i3", 0.1), Reply(503)]
    assert could(replies) == pytest.approx(2 / 0.025 + 2 / 0.02 + 2 / 0.02 + 2 / 0.1)

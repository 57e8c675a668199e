"""A test that was late begins again, and one that saw something wrong does not."""

import pytest

from tests.harness.in_time import TRIES, Late, in_time, one_of_three


async def test_what_was_late_once_is_tried_again() -> None:
    tries: list[int] = []

    @one_of_three
    async def sometimes(step: int) -> None:
        tries.append(step)
        in_time(len(tries) > 1, tries)

    await sometimes(7)
    assert tries == [7, 7]


async def test_what_is_late_each_time_is_late() -> None:
    tries: list[int] = []

    @one_of_three
    async def never() -> None:
        tries.append(1)
        in_time(False, "too late")

    with pytest.raises(Late, match="too late"):
        await never()
    assert len(tries) == TRIES


async def test_what_is_wrong_is_wrong_at_the_first_try() -> None:
    tries: list[int] = []

    @one_of_three
    async def wrong() -> None:
        tries.append(1)
        assert tries == []

    with pytest.raises(AssertionError):
        await wrong()
    assert len(tries) == 1

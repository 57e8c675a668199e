"""What one control process leaves to the next of the last hour: all of it, whole, and bounded."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.events import KEPT, Event, Events, Subscription
from gateway.controlplane.watch import last_hour_file
from gateway.controlplane.watch.last_hour import MAX_BYTES, LastHour, columns
from gateway.controlplane.watch.last_hour_file import LastHourFile, read
from gateway.controlplane.watch.rates import GATEWAY, What


class Process:
    """What one control process knows of the last hour, and its file."""

    def __init__(
        self, path: Path, now: float = 0.0, max_bytes: int = MAX_BYTES, kept: int = KEPT
    ) -> None:
        self.hour, self.events, self.now = LastHour(max_bytes=max_bytes), Events(kept=kept), now
        self.file = LastHourFile(path, self.hour, self.events)
        self.file.take_up(now)
        self.hour.add(now, {})

    def seconds(self, count: int, each: dict[What, int]) -> None:
        for _ in range(count):
            self.now += 1.0
            self.hour.add(self.now, dict.fromkeys([("route", "r"), GATEWAY], each))

    def rates(self) -> list[float]:
        found: list[float] = columns(self.hour.steps(), ("route", "r"))["requests_per_s"]
        return found


async def told(subscription: Subscription) -> list[Any]:
    """What a stream has to tell at once, by number or type."""
    subscription.close()
    return [event.get("number", event["type"]) async for event in subscription]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last-hour"


async def test_what_was_counted_and_what_happened_is_there_for_the_next_process(path: Path) -> None:
    before = Process(path)
    before.seconds(20, {"2xx": 5, 700: 5})
    before.events.publish({"type": "edit", "number": 1})
    assert await before.file.keep()
    before.seconds(3, {"2xx": 7})
    before.events.publish({"type": "edit", "number": 2})
    await before.file.close()
    after = Process(path, now=30.0)
    assert after.rates() == [5.0, 5.0, 7.0]
    assert after.hour.steps()[-1].until == 23.0
    assert columns(after.hour.steps(), GATEWAY)["latency_ms"]["p50"][0] is not None
    assert await told(after.events.subscribe(last_s=3600)) == [1, 2]
    after.seconds(20, {"2xx": 4})
    assert after.rates() == [5.0, 5.0, 7.0, 4.0, 4.0]


async def test_who_is_killed_loses_what_was_not_written_yet_and_says_so(path: Path) -> None:
    before = Process(path)
    before.seconds(14, {"2xx": 5})
    before.events.publish({"type": "edit", "number": 1})
    assert await before.file.keep()
    before.seconds(3, {"2xx": 5})
    before.events.publish({"type": "edit", "number": 2})
    after = Process(path, now=20.0)
    assert after.rates() == [5.0, 5.0]
    assert after.hour.steps()[-1].until == 14.0
    assert await told(after.events.subscribe(last_s=3600)) == [1, "lost"]


async def test_the_second_before_the_kill_is_counted_once(path: Path) -> None:
    """A step that is written as it grows, and once more when it is whole, is one."""
    before = Process(path)
    for _ in range(15):
        before.seconds(2, {"2xx": 5})
        assert await before.file.keep()
    after = Process(path, now=40.0)
    assert after.rates() == [5.0, 5.0, 5.0]
    assert [step.until for step in after.hour.steps()] == [10.0, 20.0, 30.0]


async def test_a_gap_between_two_processes_makes_no_lower_rate(path: Path) -> None:
    before = Process(path, now=1000.0)
    before.seconds(4, {"2xx": 6})
    assert await before.file.keep()
    after = Process(path, now=1007.0)
    after.seconds(4, {"2xx": 6})
    (step,) = after.hour.steps()
    assert (step.since, step.until, step.lasted_s) == (1000.0, 1010.0, 7.0)
    assert after.rates() == [6.0]


async def test_a_stream_that_broke_goes_on_in_the_next_process(path: Path) -> None:
    before = Process(path)
    for number in (1, 2, 3):
        before.events.publish({"type": "edit", "number": number})
    first: Event = before.events.since(0)[0]
    assert await before.file.keep()
    before.events.publish({"type": "edit", "number": 4})
    never_kept: Event = before.events.since(3)[0]
    after = Process(path)
    after.events.publish({"type": "edit", "number": 5})
    assert await told(after.events.subscribe(first["id"])) == [2, 3, "lost", 5]
    assert await told(after.events.subscribe(never_kept["id"])) == ["lost"]
    begun = after.events.subscribe(first["id"]).begun
    assert await told(after.events.subscribe(begun)) == [2, 3, "lost", 5]


async def test_events_and_steps_of_three_processes_follow_one_another(path: Path) -> None:
    for turn in range(3):
        process = Process(path, now=100.0 * turn)
        process.seconds(10, {"2xx": 1 + turn})
        process.events.publish({"type": "edit", "number": turn})
        await process.file.close()
    last = Process(path, now=300.0)
    assert last.rates() == [1.0, 2.0, 3.0]
    assert await told(last.events.subscribe(last_s=3600)) == [0, 1, 2]


async def test_a_file_that_is_cut_or_damaged_anywhere_gives_what_lies_before(path: Path) -> None:
    before = Process(path)
    before.seconds(30, {"2xx": 5, 700: 5})
    before.events.publish({"type": "edit", "number": 1})
    assert await before.file.keep()
    whole, known = path.read_bytes(), read(path)
    assert (len(known.steps), len(known.events)) == (3, 1)
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :]):
            path.write_bytes(damaged)
            found = read(path)
            assert found.steps == known.steps[: len(found.steps)]
            assert found.events in ([], known.events)
            assert Process(path, now=40.0).rates() == [5.0] * len(found.steps)


async def test_what_a_clock_of_another_start_says_is_not_shown(path: Path) -> None:
    before = Process(path, now=9000.0)
    before.seconds(10, {"2xx": 5})
    await before.file.close()
    assert Process(path, now=50.0).rates() == []


async def test_the_file_of_another_layout_is_no_file(path: Path, monkeypatch: Any) -> None:
    before = Process(path)
    before.seconds(10, {"2xx": 5})
    await before.file.close()
    monkeypatch.setattr(last_hour_file, "LAYOUT", 2)
    assert Process(path, now=50.0).rates() == []


async def test_the_file_is_bounded_by_what_is_kept(path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(last_hour_file, "SPARE", 10_000)
    process = Process(path, max_bytes=20_000, kept=20)
    most = 0
    for number in range(1000):
        process.seconds(2, {"2xx": 5, **dict.fromkeys(range(100), 1)})
        process.events.publish({"type": "edit", "number": number, "why": "x" * 20})
        assert await process.file.keep()
        most = max(most, path.stat().st_size)
    assert 20_000 < most < 2 * 40_000 + 10_000 + 2_000
    assert read(path).steps[-1].until == 2000.0


async def test_what_cannot_be_written_stops_nothing_and_is_written_once_it_can(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "gone"
    process = Process(folder / "last-hour")
    process.seconds(10, {"2xx": 5})
    assert not await process.file.keep()
    process.seconds(10, {"2xx": 5})
    folder.mkdir()
    assert await process.file.keep()
    assert [step.until for step in read(folder / "last-hour").steps] == [10.0, 20.0]
    folder.rename(tmp_path / "elsewhere")
    await process.file.close()


async def test_nothing_is_written_while_nothing_happens(path: Path) -> None:
    process = Process(path)
    assert await process.file.keep()
    size = path.stat().st_size
    for _ in itertools.repeat(None, 3):
        process.hour.add(process.now, {})
        assert await process.file.keep()
    assert path.stat().st_size == size


async def test_a_step_that_goes_on_is_not_written_again_while_nothing_is_counted(
    path: Path,
) -> None:
    process = Process(path)
    process.seconds(1, {"2xx": 5})
    assert await process.file.keep()
    size = path.stat().st_size
    process.now += 1.0
    process.hour.add(process.now, {})
    assert await process.file.keep()
    assert path.stat().st_size == size
    process.seconds(1, {"2xx": 5})
    assert await process.file.keep()
    assert path.stat().st_size > size

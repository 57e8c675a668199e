"""When a key was last used is known from what is counted, and outlives processes."""

from pathlib import Path

from gateway.controlplane.watch.key_use import KeyUse, UseFile
from gateway.controlplane.watch.tallies import Change
from gateway.telemetry.metrics import CONSUMED, REQUESTS

UNUSED = {"last_used": None, "requests": 0, "refused": 0}


def used(name: str, more: int, code: str = "200") -> Change:
    return Change(CONSUMED, (name, "r"), (code,), more)


class Clocks:
    def __init__(self) -> None:
        self.now = 0.0

    def wall(self) -> float:
        return 1_800_000_000 + self.now

    def of(self, path: Path | None) -> KeyUse:
        return KeyUse(UseFile(path), wall=self.wall, clock=lambda: self.now)


def test_each_look_says_who_was_used_since_the_last_one() -> None:
    clocks = Clocks()
    use = clocks.of(None)
    use.note([])
    clocks.now = 1.0
    use.note([used("a", 2), used("a", 1, "429"), Change(REQUESTS, ("r", "b", "i"), (), 9)])
    clocks.now = 2.0
    use.note([used("b", 1, "403")])
    assert use.of("a") == {"last_used": "2027-01-15T08:00:01Z", "requests": 3, "refused": 1}
    assert use.of("b") == {"last_used": "2027-01-15T08:00:02Z", "requests": 1, "refused": 1}
    assert use.of("c") == UNUSED


def test_what_is_counted_elsewhere_from_now_on_is_no_use() -> None:
    clocks = Clocks()
    use = clocks.of(None)
    use.note([])
    clocks.now = 1.0
    use.note([used("a", 26), used("b", 5)])
    clocks.now = 60.0
    moved = Change(CONSUMED, ("a", "(retired-1)"), ("200",), 26)
    use.note([moved, used("a", -26), Change(CONSUMED, ("b", "(retired-1)"), ("200",), 5),
              used("b", -5), used("b", 1)])  # fmt: skip
    assert use.of("a") == {"last_used": "2027-01-15T08:00:01Z", "requests": 26, "refused": 0}
    assert use.of("b") == {"last_used": "2027-01-15T08:01:00Z", "requests": 6, "refused": 0}
    assert use.per_s("a") < 1.0


def test_what_was_counted_before_anybody_looked_is_no_use_of_now(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "use.json"
    before = clocks.of(path)
    before.note([])
    before.note([used("a", 5), used("b", 5)])
    before.close()
    clocks.now = 60.0
    after = clocks.of(path)  # another control process, the same workers
    after.note([used("a", 5), used("b", 6)])
    assert after.of("a")["last_used"] == "2027-01-15T08:00:00Z"
    assert after.of("b")["last_used"] == "2027-01-15T08:01:00Z"  # once while nobody looked
    again = clocks.of(path)  # another gateway, which has counted nothing
    again.note([])
    assert again.of("a") == {**UNUSED, "last_used": "2027-01-15T08:00:00Z"}


async def test_it_is_written_down_every_few_seconds_and_of_keys_that_there_are(
    tmp_path: Path,
) -> None:
    clocks, path = Clocks(), tmp_path / "use.json"
    use = clocks.of(path)
    use.note([])
    use.note([used("a", 1), used("gone", 1)])
    use.beat({"a": None})
    assert not path.exists()
    clocks.now = 11.0
    use.beat({"a": None})
    use.close()
    writing = use.writing
    assert writing is not None
    await writing
    assert UseFile(path).load() == {"a": (1_800_000_000.0, 1)}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_read_means_that_less_is_known(tmp_path: Path) -> None:
    path = tmp_path / "use.json"
    for damaged in (b"", b"[]", b'{"a": 1}', b'{"a": ["x", "y"]}'):
        path.write_bytes(damaged)
        assert UseFile(path).load() == {}
    UseFile(tmp_path / "no" / "such").keep({})


def test_the_rate_of_a_key_is_that_of_the_last_seconds() -> None:
    clocks = Clocks()
    use = clocks.of(None)
    assert use.per_s("a") == 0.0
    use.note([used("a", 1000)])  # in nobody knows how many seconds
    assert use.per_s("a") == 0.0
    clocks.now = 2.0
    use.note([used("a", 30), used("a", 10, "429")])
    assert (use.per_s("a"), use.per_s("b")) == (20.0, 0.0)
    clocks.now = 10.0
    use.note([used("a", 40)])
    assert use.per_s("a") == 8.0
    clocks.now = 20.0
    use.note([])
    assert use.per_s("a") == 0.0, "all of it is longer ago than ten seconds"

"""Which mirrors are compared, what is told of them, and that no counter goes back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.comparing.process import MAX_EARLY, Comparing
from gateway.controlplane.mirrors.book import Mirrors
from gateway.core.comparing import Answer, compare_of
from gateway.core.faults import Missing
from gateway.core.mirrored import Mirrored, Pair
from gateway.core.table import Table
from gateway.wire.channel import Channel
from gateway.wire.pairs import MirrorsMessage, MirrorSpec, PairHead, Part
from tests.harness.gateway import eventually

METRIC = "headgate_mirror_compared_total"
DIGIT = {"fields": {"/digit": "exact"}}


def table(**mirrors: Any) -> Table:
    """One route for each of `mirrors`, by name."""
    routes = {
        name: {"match": f"/{name}", "split": {"a": 1}} | ({"mirror": said} if said else {})
        for name, said in mirrors.items()
    }
    backends = {name: {"instances": [f"http://127.0.0.1:{n}"]} for n, name in enumerate("ab", 1)}
    return Table.from_document({"backends": backends, "routes": routes}, 1)


def to_b(compare: Any = DIGIT, percent: float = 100) -> dict[str, Any]:
    return {"backend": "b", "percent": percent, "compare": compare}


def state(agree: int, differ: int) -> dict[str, Any]:
    """What a compare process tells after so many pairs, and one that could not be compared."""
    known = Mirrored(compare_of(DIGIT), skipped=1)
    for digit in [1] * agree + [2] * differ:
        known.take(Pair(Answer(200, "json", {"digit": 1}), Answer(200, "json", {"digit": digit})))
    return known.as_json()


class Process:
    """A compare process that says what a test wants it to."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.channel: Channel[Any, Any] | None = None

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.channel = Channel(reader, writer)
        while (message := await self.channel.receive()) is not None:
            self.told.append(message["mirrors"])

    def say(self, route: str, agree: int, differ: int) -> None:
        assert self.channel is not None
        spec = self.told[-1][route]
        word = {"type": "compared", "route": route, "id": spec["id"], "since": "then"}
        self.channel.send_soon({**word, "state": state(agree, differ)})


async def test_a_process_is_wanted_while_a_mirror_is_compared() -> None:
    wanted: list[bool] = []
    mirrors = Mirrors("", wanted.append)
    for routes in ({}, {"r": {"backend": "b"}}, {"r": to_b()}, {"r": to_b(), "s": to_b()}, {}):
        mirrors.sync(table(**{"r": None, **routes}))
    assert wanted == [True, False]
    mirrors.announce()
    assert wanted == [True, False, False]


async def test_a_process_that_says_nothing_is_found_to_hang(tmp_path: Path) -> None:
    process, path, hung = Process(), str(tmp_path / "s"), asyncio.Event()
    server = await asyncio.start_unix_server(process.attend, path)
    mirrors = Mirrors(path, lambda wanted: None, hangs=hung.set, silent_s=0.01)
    mirrors.sync(table(r=to_b()))
    task = asyncio.create_task(mirrors.run())
    await hung.wait()
    await eventually(lambda: len(process.told) > 1, what="whoever comes after it is met")
    task.cancel()
    server.close()


async def test_the_last_word_is_kept_given_on_and_counted_on(tmp_path: Path) -> None:
    process, path = Process(), str(tmp_path / "s")
    server = await asyncio.start_unix_server(process.attend, path)
    mirrors = Mirrors(path, lambda wanted: None, counted=lambda route, backend: {"dropped": 7})
    document = table(r=to_b())
    mirrors.sync(document)
    assert mirrors.shown(document.document, "r")["pairs"] == 0
    task = asyncio.create_task(mirrors.run())
    try:
        await eventually(lambda: process.told)
        assert process.told[0]["r"]["known"] is None
        assert process.channel is not None
        process.channel.send_soon({"type": "alive"})
        process.say("r", 8, 2)
        await eventually(lambda: mirrors.shown(document.document, "r")["pairs"] == 10)
        shown = mirrors.shown(document.document, "r")
        assert (shown["agreement"], shown["since"]) == (0.8, "then")
        assert shown["verdicts"] == {"agree": 8, "differ": 2, "unanswered": 0, "dropped": 8}
        process.channel.close()  # it ends, and another one comes
        await eventually(lambda: len(process.told) > 1)
        assert process.told[-1]["r"]["known"]["counts"][:2] == [10, 2]
        mirrors.sync(table(r=to_b(percent=5)))
        assert mirrors.shown(document.document, "r")["pairs"] == 10, "how many is no other way"
        mirrors.sync(table(r=to_b({"fields": {"/other": "exact"}})))
        assert mirrors.shown(document.document, "r")["pairs"] == 0
        counts = mirrors.counters()[METRIC]
        assert (counts["r", "b", "agree"], counts["r", "b", "differ"]) == (8, 2)
        assert counts["r", "b", "dropped"] == 1, "of what came here; workers count the rest"
    finally:
        task.cancel()
        server.close()


def pair(route: str) -> tuple[PairHead, list[Part]]:
    """One of which both say the same."""
    head = PairHead(route=route, request="", key=-1, time=0.0, parts=[])
    return head, [(200, "", "", b'{"digit": 1}')] * 2


def test_pairs_that_come_before_their_mirror_is_known_are_compared_or_counted() -> None:
    comparing = Comparing()
    for _ in range(MAX_EARLY + 5):
        comparing.take(*pair("r"))
    comparing.sync(MirrorsMessage(type="mirrors", mirrors={"r": spec()}))
    comparing.take(*pair("r"))
    known = comparing.of("r")
    assert (known.counts.pairs, known.skipped) == (MAX_EARLY + 1, 5)


def test_a_pair_that_cannot_be_compared_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    comparing = Comparing()
    comparing.sync(MirrorsMessage(type="mirrors", mirrors={"r": spec()}))
    monkeypatch.setattr(Mirrored, "take", lambda self, pair: 1 / 0)
    comparing.take(*pair("r"))
    assert comparing.of("r").skipped == 1


def spec() -> MirrorSpec:
    return MirrorSpec(id="1", since="then", backend="b", compare=DIGIT, known=None)


async def test_what_is_not_compared_is_missing_and_says_why() -> None:
    mirrors = Mirrors("", lambda wanted: None)
    found = table(r=None, s={"backend": "b"})
    mirrors.sync(found)
    for route, why in (("r", "no mirror"), ("s", "answers are dropped"), ("t", "no route 't'")):
        with pytest.raises(Missing, match=why):
            mirrors.shown(found.document, route)

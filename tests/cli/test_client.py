"""The client on its own: events, faults, and what it refuses to send; and the same, awaited."""

import asyncio
import inspect
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.client import AdminClient, AsyncAdminClient, Change, Refused, TimedOut, Unreachable
from tests.harness.gateway import ROOT, eventually


def test_events_arrive_one_by_one_and_end_with_the_gateway(player) -> None:
    events = AdminClient(player.url).events()
    got = []

    def read() -> None:
        got.extend(event["type"] for event in events)

    reader = threading.Thread(target=read)
    reader.start()
    while not player.listeners:
        threading.Event().wait(0.005)
    player.emit({"type": "edit", "revision": 43})
    player.emit({"type": "health", "instance": "127.0.0.1:8001"})
    player.listeners[0].put(None)
    reader.join(60)
    assert got == ["edit", "health"]


def test_a_refusal_names_every_fault(player) -> None:
    with pytest.raises(Refused) as caught:
        AdminClient(player.url).set_weights("digits", {"digits-cnn": -1, "digits-linear": -2})
    assert caught.value.status == 400
    assert [fault["pointer"] for fault in caught.value.faults] == ["/digits-cnn", "/digits-linear"]


def test_what_is_no_admin_api_is_unreachable(player) -> None:
    player.pages["/x/admin/v1/table"] = ("text/html", b"<html>")
    with pytest.raises(Unreachable):
        AdminClient(player.url + "/x").table()


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "ä", "a?b#c", "%2e"])
def test_a_name_stays_one_segment_of_the_path(player, name) -> None:
    player.table["routes"][name] = {"match": "/", "split": {"square": 3}}
    assert AdminClient(player.url).weights(name)["weights"] == {"square": 3}


def test_a_reason_cannot_smuggle_a_header(player) -> None:
    change = Change(reason="a\r\nX-Evil: 1")
    with pytest.raises(ValueError):
        AdminClient(player.url).set_weights("digits", {"digits-cnn": 1}, change)
    assert player.asked == []


# -- awaited -------------------------------------------------------------------------------------


def test_every_method_of_the_admin_client_can_be_awaited() -> None:
    names = {name for name in vars(AdminClient) if not name.startswith("_")}
    assert names == {name for name in vars(AsyncAdminClient) if not name.startswith("_")}
    for name in names:
        one, other = getattr(AdminClient, name), getattr(AsyncAdminClient, name)
        assert inspect.signature(one).parameters == inspect.signature(other).parameters, name
        assert inspect.getdoc(other) or not inspect.getdoc(one), name
        assert inspect.isasyncgenfunction(other) == (name == "events")
    assert inspect.signature(AdminClient) == inspect.signature(AsyncAdminClient)


TYPED = """
from collections.abc import AsyncGenerator, Coroutine
from typing import Any
from gateway.clients.admin import Weights, WeightsEdit
from gateway.clients.admin_connection import Answer, Change
from gateway.clients.async_admin import AsyncAdminClient
from gateway.clients.errors import Json

async def ask(admin: AsyncAdminClient, change: Change) -> None:
    asked: Coroutine[Any, Any, Weights] = admin.weights("digits")
    weights: Weights = await asked
    edit: WeightsEdit = await admin.set_weights("digits", {"cnn": 1}, change, whole=True)
    workers: int = edit["applied"]["workers"]
    without: list[str] = edit["applied"].get("lost", [])
    tried: bool = edit.get("dry_run", False)
    lines: list[Json] = await admin.logs("cnn", lines=3)
    answer: Answer = await admin.backend("cnn")
    events: AsyncGenerator[Json, None] = admin.events()
    wrong: Weights = await admin.logs("cnn")  # assignment
    await admin.set_weights("digits")  # call-arg
    await admin.logs("cnn", lines="3")  # arg-type
"""


def test_mypy_knows_what_an_awaited_method_takes_and_gives(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir",
         str(tmp_path / "cache"), str(file)],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    found = {int(line) for line in re.findall(r"^\S+typed\.py:(\d+): error", ran.stdout, re.M)}
    lines = TYPED.splitlines()
    assert found == {n for n, line in enumerate(lines, 1) if "  # " in line}, (
        ran.stdout + ran.stderr
    )


async def test_an_awaited_edit_is_the_edit(player) -> None:
    admin = AsyncAdminClient(player.url)
    edit = await admin.set_weights("digits", {"digits-cnn": 50}, Change(reason="more"))
    assert edit["weights"]["digits-cnn"] == 50
    assert (await admin.weights("digits"))["weights"] == edit["weights"]
    with pytest.raises(Refused) as caught:
        await admin.weights("nothing")
    assert caught.value.status == 404


async def test_awaited_events_come_as_they_happen_and_end_with_the_gateway(player) -> None:
    events = AsyncAdminClient(player.url).events()
    first = asyncio.ensure_future(anext(events))
    await eventually(lambda: bool(player.listeners))
    player.emit({"type": "edit", "revision": 43})
    assert (await first)["type"] == "edit"
    player.emit({"type": "health"})
    player.listeners[0].put(None)
    got = [event["type"] async for event in events]
    assert got == ["health"]
    await eventually(lambda: not threads(), what="no thread is left")


async def test_events_that_were_before_come_first_where_that_is_wanted(player) -> None:
    player.happened.append({"type": "edit", "revision": 41})
    events = AsyncAdminClient(player.url).events(last_s=60)
    assert (await anext(events))["revision"] == 41
    await events.aclose()
    assert next(AdminClient(player.url).events(last_s=60))["revision"] == 41


@pytest.mark.parametrize("how", ["closed", "cancelled", "closed before it began"])
async def test_awaited_events_end_their_connection_when_they_are_closed(player, how: str) -> None:
    events = AsyncAdminClient(player.url).events()
    if how != "closed before it began":
        first = asyncio.ensure_future(anext(events))
        await eventually(lambda: bool(player.listeners))
        if how == "closed":
            player.emit({"type": "edit"})
            await first
        else:
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
    await events.aclose()
    await eventually(lambda: not threads(), what="no thread is left")


def test_a_cancelled_call_ends_at_once_and_its_loop_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        admin = AsyncAdminClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=3600)

        async def ask() -> socket.socket:
            asked = asyncio.create_task(admin.table())
            connection, _ = await asyncio.to_thread(silent.accept)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            return connection

        asyncio.run(ask()).close()  # before an hour is over; and lets the thread end


def test_a_stream_of_events_may_be_silent_for_longer_than_an_answer(player) -> None:
    player.happened = [{"type": "worker"}]
    events = AdminClient(player.url, timeout_s=1).events(last_s=60)
    assert next(events)["type"] == "worker"
    with ThreadPoolExecutor() as pool, socket.create_server(("127.0.0.1", 0)) as silent:
        waiting = pool.submit(next, events, None)
        with pytest.raises(TimedOut):  # after that time
            AdminClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=1.5).table()
        player.emit({"type": "edit"})
        assert waiting.result() == {"type": "edit"}
    events.close()


@pytest.mark.parametrize(
    "said",
    [
        b"Content-Type: application/json\r\n\r\n{}",
        b"\r\ndata: {}\n\n",
        b"Content-Type: text/event-stream\r\n\r\ndata: {no json\n\n",
    ],
)
def test_a_stream_that_is_none_of_a_gateway_is_not_taken_for_its_end(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def answer() -> None:
            to, _ = server.accept()
            with to:
                to.recv(65536)
                to.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + said)

        answered = pool.submit(answer)
        with pytest.raises(Unreachable, match="is not the admin API of a gateway"):
            list(AdminClient(f"http://127.0.0.1:{server.getsockname()[1]}").events())
        answered.result()


def test_a_token_that_no_header_holds_is_refused_and_not_repeated(player) -> None:
    for odd in ("hunter2\nX-Evil: 1", "hunter\u200b2"):
        with pytest.raises(ValueError, match="a token is one line of printable") as refused:
            AdminClient(player.url, odd)
        assert "hunter" not in str(refused.value)
    assert player.asked == []


def test_a_token_is_sent_as_it_is_but_for_what_a_file_leaves_around_it(player) -> None:
    player.tokens = {"Bearer secret": "operator"}
    assert AdminClient(player.url, " secret\n").status()["revision"] == 42
    with pytest.raises(Refused):
        AdminClient(player.url, "\u20ac").status()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "headgate-admin"]


def test_a_gateway_that_says_nothing_is_too_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimedOut, match="timed out"):
            AdminClient(f"http://127.0.0.1:{port}", timeout_s=0.05).table()

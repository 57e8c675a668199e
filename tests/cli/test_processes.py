"""scale, reload, restart, start, stop and logs, where nobody starts processes or nothing is meant.

With real processes they are tried in tests/processes/test_reconciling.py.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click import UsageError

from gateway.cli.processes import parse_counts
from tests.cli.admin_player import AdminPlayer


def test_counts_are_read_word_by_word() -> None:
    assert parse_counts(["digits-cnn=3", "a=b=1"]) == [("digits-cnn", 3), ("a=b", 1)]


@pytest.mark.parametrize("word", ["digits-cnn", "=3", "digits-cnn=-1", "digits-cnn=x", "a=999"])
def test_what_is_no_count_is_said(word: str) -> None:
    with pytest.raises(UsageError, match="must be BACKEND=N, such as digits-cnn=3"):
        parse_counts([word])


@pytest.mark.parametrize(
    "command",
    [
        ("scale", "digits-cnn=2"),
        ("reload", "digits-cnn"),
        ("start", "digits-cnn"),
        ("stop", "square"),
    ],
)
def test_a_gateway_that_starts_nothing_refuses(headgate, player, command) -> None:
    revision = player.revision
    ran = headgate(*command)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "headgate: this gateway starts no instances; `headgate up` does\n"
    assert player.revision == revision


def test_a_backend_that_is_not_there_is_named_with_the_nearest(headgate, player) -> None:
    ran = headgate("scale", "digits-cn=2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "headgate: there is no backend 'digits-cn' (did you mean digits-cnn?)\n"


def serving(player: AdminPlayer, **serve: Any) -> None:
    """`headgate up` runs digits-cnn, and it is ready."""
    player.table["backends"]["digits-cnn"]["serve"] = {"model": "models:Cnn", **serve}
    found = {"state": "ready", "error": None, "processes": []}
    player.fleet = {"revision": player.revision, "backends": {"digits-cnn": found}}


def test_a_model_that_starts_on_demand_is_told_and_no_edit_is_made(headgate, player) -> None:
    serving(player, start="demand")
    revision = player.revision
    for word in ("stop", "start"):
        ran = headgate(word, "digits-cnn")
        assert (ran.code, ran.out) == (0, f"digits-cnn: it will {word}\n"), ran
    assert player.told == [("stop", "digits-cnn"), ("start", "digits-cnn")]
    assert player.revision == revision
    assert headgate("stop", "digits-cnn", "--dry-run").code == 0
    assert len(player.told) == 2


def test_any_other_model_is_stopped_and_started_by_how_many_run(headgate, player) -> None:
    serving(player, replicas=3)
    ran = headgate("start", "digits-cnn")
    assert (ran.code, ran.out) == (0, "digits-cnn: served already\n"), ran
    ran = headgate("stop", "digits-cnn", "-m", "no memory")
    assert ran.code == 0, ran
    assert player.table["backends"]["digits-cnn"]["serve"]["replicas"] == 0
    assert player.revisions[0]["why"] == "no memory"
    ran = headgate("stop", "digits-cnn")
    assert (ran.code, ran.out) == (0, "digits-cnn: stopped already\n"), ran
    assert headgate("start", "digits-cnn").code == 0
    assert player.table["backends"]["digits-cnn"]["serve"]["replicas"] == 3, "as before"
    assert player.told == []


def test_one_that_was_stopped_as_long_as_is_known_is_started_once(headgate, player) -> None:
    serving(player, replicas=0)
    assert headgate("start", "digits-cnn").code == 0
    assert player.table["backends"]["digits-cnn"]["serve"]["replicas"] == 1


def test_what_is_scaled_by_its_load_is_not_scaled_beyond_that(headgate, player) -> None:
    serving(player, replicas=2, scale={"max": 4})
    for count in (0, 5):
        ran = headgate("scale", f"digits-cnn={count}")
        assert ran.code == 1
        assert ran.err == (
            f"headgate: digits-cnn is scaled by its load, from 1 to 4 replicas: {count} would not"
            " last; edit `serve.scale`\n"
        )
    assert headgate("scale", "digits-cnn=4").code == 0


def test_start_waits_until_it_is_ready_and_not_only_until_it_is_asleep(headgate, player) -> None:
    serving(player, start="demand")
    player.fleet["backends"]["digits-cnn"]["state"] = "asleep"
    ran = headgate("start", "digits-cnn", "--wait", "--timeout", "0")
    assert (ran.code, ran.err.splitlines()) == (
        1,
        ["digits-cnn: asleep", "headgate: not done after 0 s: digits-cnn is asleep"],
    )
    assert headgate("stop", "digits-cnn", "--wait", "--timeout", "0").code == 0


def line(number: int, text: str) -> dict[str, Any]:
    return {"number": number, "instance": "127.0.0.1:8002", "text": text}


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_logs_are_followed_in_the_form_that_was_asked_for(player, form) -> None:
    player.lines["digits-cnn"] = [line(1, "loading"), line(2, "loaded")]
    with following(player, "logs", "digits-cnn", "-f", "-n", "1", "-o", form) as read:
        read("loaded")
        player.lines["digits-cnn"].append(line(3, "warmed"))
        printed = read("warmed")
    assert printed.count("loaded") == 1
    assert "loading" not in printed


def test_logs_are_followed_over_a_gateway_that_is_away_and_over_another_one(player) -> None:
    player.lines["digits-cnn"] = [line(7, "loaded")]
    with following(player, "logs", "digits-cnn", "-f") as read:
        read("loaded")
        player.broken = True
        read("no gateway answers")
        player.lines["digits-cnn"] = [line(1, "loading"), line(2, "ready")]
        player.broken = False
        printed = read("ready")
    assert "loading" in printed


@contextmanager
def following(player: AdminPlayer, *words: str) -> Iterator[Callable[[str], str]]:
    """A command that goes on; gives what returns all that it printed, once that holds a text."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", *words, "--url", player.url],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as command:  # fmt: skip
        printed = ""

        def read(until: str) -> str:
            nonlocal printed
            deadline = time.monotonic() + 60
            while until not in printed and time.monotonic() < deadline:
                if select.select([command.stdout], [], [], 1)[0]:
                    more = os.read(command.stdout.fileno(), 1 << 16).decode()
                    assert more, printed
                    printed += more
            assert until in printed
            return printed

        try:
            yield read
        finally:
            command.kill()

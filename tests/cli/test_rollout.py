"""`headgate rollout` begins, follows and tells."""

import json

import pytest

from gateway.cli import rollout as command
from gateway.cli.rollout import bar
from tests.cli.admin_player import look
from tests.cli.test_terminal import Terminal


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LOOK_S", 0.0)


def test_one_that_is_done_is_followed_in_lines_of_json(headgate, player) -> None:
    player.rollouts["digits"] = [look(), look(), look(step=2, share=50), look("done", 3, 100)]
    ran = headgate("rollout", "digits")
    assert ran.code == 0
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [(line["state"], line["step"]) for line in lines] == [
        ("running", 1), ("running", 2), ("done", 3),
    ]  # fmt: skip
    assert "plan" not in lines[0]
    assert "etag" not in lines[0]


@pytest.mark.parametrize("state", ["rolled_back", "aborted"])
def test_one_that_went_back_is_exit_3(headgate, player, state) -> None:
    player.rollouts["digits"] = [look(), look(state, 1, 0, 119.0)]
    ran = headgate("rollout", "digits")
    assert ran.code == 3
    assert json.loads(ran.out.splitlines()[-1])["guards"]["errors"]["verdict"] == "failed"


def test_a_plan_is_sent_as_it_was_written_and_no_more(headgate, player) -> None:
    player.rollouts["digits"] = [look("done", 3, 100)]
    options = ("--steps", "0.5,5,100%", "--hold", "10m", "--min-requests", "7", "--warmup", "0")
    ran = headgate("rollout", "digits", "digits-cnn", *options, "-m", "cnn v2")
    assert ran.code == 0, ran.err
    assert player.plan == {
        "to": "digits-cnn", "steps": [0.5, 5, 100], "hold": "10m", "min_requests": 7,
        "warmup": 0, "why": "cnn v2",
    }  # fmt: skip
    headgate("rollout", "digits", "digits-cnn", "--predictions", "/digit")
    assert player.plan["guards"]["predictions"] == {"field": "/digit"}
    headgate("rollout", "digits", "digits-cnn", "--slower-than", "3")
    assert player.plan == {
        "to": "digits-cnn", "guards": {"errors": {}, "latency": {"slower_than": 3.0}},
    }  # fmt: skip


def test_why_it_is_held_is_said_last(headgate, player) -> None:
    player.rollouts["digits"] = [{**look(), "held": "cannot become rolled back: no space"}]
    ran = headgate("rollout", "pause", "digits")
    assert ran.out.splitlines()[-1] == "held: cannot become rolled back: no space"


def test_which_of_several_gateways_drives_it_is_said(headgate, player) -> None:
    player.rollouts["digits"] = [{**look(), "driver": "gw-a"}]
    assert "driven by gateway gw-a" in headgate("rollout", "pause", "digits").out


def test_time_that_passes_is_no_line_of_its_own(headgate, player) -> None:
    player.rollouts["digits"] = [look(), look(held_s=46.0), look("done", 3, 100)]
    assert len(headgate("rollout", "digits").out.splitlines()) == 2


def test_who_does_not_follow_sees_where_it_is(headgate, player) -> None:
    player.rollouts["digits"] = [look()]
    ran = headgate("rollout", "digits", "digits-cnn", "--detach")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "digits → digits-cnn: running, 5 %",
        "cnn v2",
        "",
        "STEP  SHARE  STATE  NEEDS",
        "   1    5 %  now    45s of 120s, 60 of 100 requests",
        "   2   50 %         120s, 100 requests, then approval",
        "   3  100 %         0s, 1 request",
        "",
        "GUARD   VERDICT  EVIDENCE              FOUND",
        "errors  well     ····················  9 of 212 against 17 of 1,908 at 5 %: E = 1",
        "",
        "2026-11-29T10:00:00.000Z  running: begun",
    ]


def test_a_dry_run_shows_the_steps_that_there_would_be(headgate, player) -> None:
    player.rollouts["digits"] = [look()]
    ran = headgate("rollout", "digits", "digits-cnn", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert "   2   50 %         120s, 100 requests, then approval" in ran.out.splitlines()
    assert ran.out.splitlines()[-1] == "a dry run: nothing was changed"


@pytest.mark.parametrize("word", ["pause", "resume", "promote", "abort"])
def test_a_word_before_the_route_tells_it_so(headgate, player, word) -> None:
    player.rollouts["digits"] = [look("paused")]
    ran = headgate("rollout", word, "digits", "-m", "later")
    assert ran.code == 0, ran.err
    asked = [(method, path) for method, path, _ in player.asked if method == "POST"]
    assert asked == [("POST", f"/admin/v1/routes/digits/rollout/{word}")]
    assert "paused" in ran.out


def test_a_word_that_is_but_tried_shows_where_it_would_lead(headgate, player) -> None:
    player.rollouts["digits"] = [look("running", 2, 50)]
    ran = headgate("rollout", "promote", "digits", "--dry-run")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1] == "a dry run: nothing was changed"


def test_what_is_refused_is_one_line_and_exit_1(headgate, player) -> None:
    player.rollouts["digits"] = [look()]
    ran = headgate("rollout", "approve", "digits")
    assert (ran.code, ran.err) == (1, "headgate: a rollout that is running cannot approve\n")
    ran = headgate("rollout", "square")
    assert (ran.code, ran.err) == (1, "headgate: route 'square' has no rollout\n")
    ran = headgate("rollout", "digit")
    assert ran.code == 1
    assert "did you mean digits?" in ran.err


def test_a_word_of_another_program_is_answered_by_ours(headgate, player) -> None:
    ran = headgate("rollout", "undo", "digits")
    line = "headgate: 'undo' is no route: see `headgate rollout abort ROUTE`"
    assert (ran.code, ran.err.splitlines()[0]) == (2, line)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digits", "--hold", "2m"), "--hold is for a rollout that begins"),
        (("digits", "a", "b"), "write ROUTE, ROUTE BACKEND, or one of pause"),
        (("digits", "digits-cnn", "--steps", "1,x"), "no list of percents"),
    ],
)
def test_what_is_written_wrong_is_usage(headgate, words, said) -> None:
    ran = headgate("rollout", *words)
    assert ran.code == 2
    assert said in ran.err


def test_evidence_is_a_bar_that_is_full_where_the_guard_fails() -> None:
    assert bar(1.0, 100.0) == bar(0.001, 100.0) == "·" * 20
    assert bar(10.0, 100.0) == "█" * 10 + "·" * 10
    assert bar(100.0, 100.0) == bar(1e300, 100.0) == "█" * 20


def test_on_a_terminal_it_is_a_view_that_ends_with_the_last_look(player) -> None:
    player.rollouts["digits"] = [look(), look(step=2, share=50), look("rolled_back", 2, 0, 119.0)]
    terminal = Terminal(player.url, "rollout", "digits")
    assert terminal.code() == 3
    shown = terminal.printed
    assert "now" in shown
    assert "rolled back" in shown.rpartition("\x1b[?1049l")[2]

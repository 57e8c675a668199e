"""What the commands that edit send, show and refuse."""

import json
import sys
from fractions import Fraction
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.cli.editing import in_flight, wait_until_empty
from gateway.cli.weighing import divided


def test_weights_shows_configured_and_effective(headgate, player) -> None:
    player.set_live("digits-linear", "127.0.0.1:8001", health="down")
    assert headgate("weights", "digits").out.splitlines() == [
        "BACKEND        WEIGHT   SHARE  EFFECTIVE",
        "digits-linear      90  90.0 %      0.0 %",
        "digits-cnn         10  10.0 %    100.0 %",
        "revision 42",
    ]


def test_weights_edits_what_is_named_and_shows_before_and_after(headgate, player) -> None:
    ran = headgate("weights", "digits", "digits-cnn=50", "digits-linear=50")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "BACKEND        BEFORE     AFTER   SHARE  EFFECTIVE",
        "digits-linear      90  →     50  50.0 %     50.0 %",
        "digits-cnn         10  →     50  50.0 %     50.0 %",
        "revision 43, on 1 worker",
    ]
    assert player.table["routes"]["digits"]["split"] == {"digits-linear": 50, "digits-cnn": 50}


def test_a_dry_run_shows_the_split_and_changes_nothing(headgate, player) -> None:
    ran = headgate("weights", "digits", "digits-cnn=90", "--dry-run")
    assert ran.out.splitlines()[-1] == "a dry run: nothing was changed"
    assert player.revision == 42
    assert player.table["routes"]["digits"]["split"]["digits-cnn"] == 10


def test_an_edit_carries_its_reason_in_any_script(headgate, player) -> None:
    headgate("weights", "digits", "digits-cnn=11", "-m", "größer: 50 % wären zu viel")
    assert player.revisions[0]["why"] == "größer: 50 % wären zu viel"


def test_an_edit_can_be_bound_to_a_revision(headgate, player) -> None:
    ran = headgate("weights", "digits", "digits-cnn=11", "--if-revision", "41")
    assert ran.code == 1
    assert ran.err.splitlines() == ["headgate: the revision is no longer 41: it is 42 now"]
    assert headgate("weights", "digits", "digits-cnn=11", "--if-revision", "42").code == 0
    assert player.asked[-2][2]["If-Match"]
    assert headgate("drain", "127.0.0.1:8002", "--if-revision", "42").code == 1
    assert headgate("drain", "127.0.0.1:8002", "--if-revision", "43").code == 0
    ran = headgate("drain", "127.0.0.1:8002", "--dry-run")
    assert ran.out.splitlines()[-1] == "a dry run: nothing was changed"
    ran = headgate("restore", "42", "--if-revision", "43")
    assert (ran.code, ran.err) == (1, "headgate: the revision is no longer 43: it is 44 now\n")
    assert headgate("restore", "42", "--if-revision", "44").code == 0


def test_where_a_condition_is_required_every_edit_brings_one(headgate, player, tmp_path) -> None:
    player.require_if_match = True
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(player.table))
    for words in (
        ("weights", "digits", "digits-cnn=11"), ("disable", "127.0.0.1:8002"),
        ("restore", "42"), ("apply", "new.yaml"),
    ):  # fmt: skip
        ran = headgate(*words)
        assert (ran.code, ran.err) == (0, ""), words


def test_weights_names_the_route_and_the_backend_that_were_meant(headgate, player) -> None:
    ran = headgate("weights", "digit")
    assert (ran.code, ran.err) == (
        1, "headgate: there is no route 'digit' (did you mean digits?)\n",
    )  # fmt: skip
    ran = headgate("weights", "digits", "digit-cnn=5")
    assert (ran.code, ran.err) == (
        1, "headgate: there is no backend 'digit-cnn' (did you mean digits-cnn?)\n",
    )  # fmt: skip
    assert player.revision == 42


def test_a_weight_that_is_none_is_wrong_usage_and_sends_nothing(headgate, player) -> None:
    for word in ("digits-cnn=-1", "digits-cnn=1.5", "digits-cnn", "=5", "digits-cnn=1000001",
                 "digits-cnn=", "digits-cnn=٣", "digits-cnn=%", "digits-cnn=-1%",
                 "digits-cnn=1e1%", "digits-cnn=101%", "digits-cnn=1.0000001%"):  # fmt: skip
        ran = headgate("weights", "digits", word)
        assert ran.code == 2, word
        assert ran.err.startswith("headgate: "), word
    assert headgate("weights", "digits", "square=1", "square=2").code == 2
    assert player.asked == []


def test_a_percent_of_the_route_leaves_the_others_their_proportion(headgate, player) -> None:
    player.table["routes"]["digits"]["split"] = {"digits-linear": 2, "square": 1, "digits-cnn": 0}
    ran = headgate("weights", "digits", "digits-cnn=10%")
    assert (ran.code, ran.err) == (0, "")
    split = {"digits-linear": 60, "square": 30, "digits-cnn": 10}
    assert player.table["routes"]["digits"]["split"] == split
    method, _, headers = [each for each in player.asked if each[0] != "GET"][-1]
    assert method == "PUT"
    assert headers["If-Match"], "or an edit in between would be undone"
    assert headgate("weights", "digits", "digits-cnn=0.5%", "--dry-run").code == 0
    assert player.table["routes"]["digits"]["split"] == split


@pytest.mark.parametrize(
    ("split", "percents", "weights"),
    [
        ({"a": 90, "b": 10}, {"b": "10"}, {"a": 90, "b": 10}),
        ({"a": 9, "b": 1}, {"b": "50"}, {"a": 50, "b": 50}),
        ({"a": 1}, {"b": "5"}, {"a": 95, "b": 5}),
        ({"a": 1, "b": 1}, {"b": "100"}, {"a": 0, "b": 100}),
        ({"a": 0, "b": 7}, {"b": "30"}, {"a": 70, "b": 30}),
        ({"a": 1, "b": 1, "c": 1}, {"c": "0.5"}, {"a": 199, "b": 199, "c": 2}),
        ({"a": 2, "b": 1, "c": 0}, {"c": "5"}, {"a": 190, "b": 95, "c": 15}),
        ({"a": 1, "b": 1, "c": 1}, {"a": "20", "b": "30"}, {"a": 20, "b": 30, "c": 50}),
        ({"a": 999_983, "b": 1, "c": 0}, {"c": "50"}, {"a": 499_999, "b": 1, "c": 500_000}),
    ],
)  # fmt: skip
def test_percents_are_whole_weights(split, percents, weights) -> None:
    percents = {name: Fraction(percent) for name, percent in percents.items()}
    assert divided(percents, split) == weights


@given(
    split=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1_000_000), min_size=2),
    percents=st.dictionaries(st.sampled_from("abxy"), st.decimals(0, 50, places=3), max_size=2,
                             min_size=1),
)  # fmt: skip
def test_shares_are_as_said_and_the_others_in_proportion(split, percents) -> None:
    wanted = {name: Fraction(percent) for name, percent in percents.items()}
    others = {name: weight for name, weight in split.items() if name not in wanted}
    assume(sum(others.values()))
    weights = divided(wanted, split)
    assert weights.keys() == {*split, *wanted}
    assert all(0 <= weight <= 1_000_000 for weight in weights.values())
    total, left = sum(weights.values()), 1 - sum(wanted.values()) / 100
    expected = {name: left * weight / sum(others.values()) for name, weight in others.items()}
    expected |= {name: percent / 100 for name, percent in wanted.items()}
    for name, weight in weights.items():
        assert abs(Fraction(weight, total) - expected[name]) < Fraction(1, 100_000)
        assert (weight == 0) is (expected[name] == 0)


@pytest.mark.parametrize(
    ("split", "words", "said"),
    [
        ({"a": 1, "b": 1}, ["a=10%", "b=5"], "write weights (digits-cnn=10) or percents"),
        ({"a": 1, "b": 1}, ["a=60%", "b=60%"], "the percents sum to 120, not to 100"),
        ({"a": 1, "b": 1}, ["a=60%", "b=30%"], "the percents sum to 90, not to 100"),
        ({"a": 0, "b": 0, "c": 1}, ["c=10%"], "give theirs too, such as a=90%"),
    ],
)
def test_percents_that_say_no_one_split_are_refused_with_the_way_to_write_it(
    headgate, player, split, words, said
) -> None:
    names = {"a": "digits-linear", "b": "digits-cnn", "c": "square"}
    player.table["routes"]["digits"]["split"] = {names[name]: split[name] for name in split}
    ran = headgate("weights", "digits", *(names[word[0]] + word[1:] for word in words))
    assert ran.code == 2
    first, second = ran.err.splitlines()
    assert said.replace("a=", "digits-linear=") in first
    assert second == "try: headgate weights --help"
    assert player.revision == 42


def test_apply_prints_the_difference_and_then_applies_it(headgate, player, tmp_path) -> None:
    wanted = json.loads(json.dumps(player.table))
    wanted["routes"]["digits"]["split"]["digits-cnn"] = 30
    del wanted["routes"]["square"]
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(wanted))
    ran = headgate("apply", "new.yaml", "--dry-run")
    assert ran.code == 0
    assert "~ routes/digits/split/digits-cnn: 10 → 30" in ran.out.splitlines()
    assert player.revision == 42
    ran = headgate("apply", "new.yaml")
    assert ran.out.splitlines()[-1] == "revision 43, on 1 worker"
    assert "- routes/square: " in ran.out
    assert player.table == wanted
    ran = headgate("apply", "new.yaml")
    assert ran.out.splitlines() == ["nothing would change"]
    assert player.revision == 43


def test_apply_names_the_routes_that_it_opens(headgate, player, tmp_path) -> None:
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(player.table))
    player.opened = ["route 'digits' is open to everybody"]
    for more in (["--dry-run"], [], ["--json"]):
        ran = headgate("apply", "new.yaml", *more)
        assert ran.err == "headgate: by that, route 'digits' is open to everybody\n"


def test_apply_names_the_settings_that_take_a_restart(headgate, player, tmp_path) -> None:
    (tmp_path / "new.yaml").write_text(yaml.safe_dump({"gateway": {"workers": 2}, **player.table}))
    assert headgate("apply", "new.yaml").out.splitlines() == [
        "nothing would change",
        "! gateway/workers: differs from what runs; settings are read at the next start",
    ]


def test_apply_says_what_it_does_not_start_and_refuses_that_when_strict(
    headgate, player, tmp_path
) -> None:
    backends = player.table["backends"]
    served = {**backends, "digits-cnn": {**backends["digits-cnn"], "serve": {"model": "m:New"}}}
    wanted = {**player.table, "backends": served}
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(wanted))
    revision = player.revision
    ran = headgate("apply", "new.yaml", "--strict")
    assert ran.code == 1
    assert "nothing was started, replaced or stopped" in ran.out
    assert "nothing was applied (--strict)" in ran.err
    assert player.revision == revision
    ran = headgate("apply", "new.yaml")
    assert ran.code == 0
    assert "nothing was started, replaced or stopped" in ran.out
    assert player.revision == revision + 1


def test_apply_binds_the_edit_to_the_difference_it_printed(headgate, player, tmp_path) -> None:
    wanted = {**player.table, "routes": {"digits": player.table["routes"]["digits"]}}
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(wanted))
    headgate("apply", "new.yaml")
    posts = [headers for method, path, headers in player.asked if method == "POST"]
    assert posts[-1]["If-Match"] == '"42"'
    assert posts[-1]["Content-Type"] == "application/yaml"


def test_apply_says_every_fault_of_a_file_on_a_line_of_its_own(headgate, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text("backends: {}\n")
    ran = headgate("apply", "bad.yaml")
    assert ran.code == 1
    where = "headgate: bad.yaml"
    assert ran.err == f"{where}: routes: is missing\n{where}: backends: has no entry\n"
    ran = headgate("apply", "missing.yaml")
    assert (ran.code, ran.err) == (1, "headgate: missing.yaml: no such file or directory\n")


def test_restore_goes_back_and_shows_what_changed(headgate, player) -> None:
    headgate("weights", "digits", "digits-cnn=50")
    ran = headgate("restore", "42", "-m", "worse")
    assert ran.out.splitlines() == [
        "~ routes/digits/split/digits-cnn: 50 → 10",
        "revision 44, on 1 worker",
    ]
    assert headgate("restore", "7").code == 1
    assert headgate("restore", "seven").code == 2


def test_one_instance_is_drained_resumed_disabled_and_enabled(headgate, player) -> None:
    states = []
    for command in ("drain", "resume", "disable", "enable"):
        ran = headgate(command, "127.0.0.1:8002")
        assert ran.code == 0, ran.err
        states.append(player.table["backends"]["digits-cnn"]["states"]["127.0.0.1:8002"])
    assert states == ["draining", "", "disabled", ""]


def test_an_address_of_two_backends_needs_to_be_told_apart(headgate, player) -> None:
    ran = headgate("drain", "127.0.0.1:8001")
    assert ran.code == 1
    assert "--backend" in ran.err
    assert headgate("drain", "127.0.0.1:8001", "--backend", "square").code == 0
    assert "states" not in player.table["backends"]["digits-linear"]
    ran = headgate("drain", "127.0.0.1:8021")
    assert ran.code == 1
    assert "did you mean 127.0.0.1:80" in ran.err
    ran = headgate("drain", "127.0.0.1:8002", "--backend", "digits-cn")
    assert ran.err == "headgate: there is no backend 'digits-cn' (did you mean digits-cnn?)\n"


def test_drain_waits_until_nothing_is_in_flight(headgate, player) -> None:
    ran = headgate("drain", "127.0.0.1:8002", "--wait")
    assert ran.code == 0
    assert ran.out.startswith("127.0.0.1:8002: drained")
    player.set_live("digits-cnn", "127.0.0.1:8003", in_flight=2)
    ran = headgate("drain", "127.0.0.1:8003", "--wait", "--timeout", "0.1")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "2 in flight",
        "headgate: 127.0.0.1:8003 is not drained after 0.1 s: 2 in flight",
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, ""),
        ({"silent_workers": [7, 9]}, "worker 7 does not answer, worker 9 does not answer"),
        ({"gateways": {"gw-a": {"self": True, "finishing": ["main/a:1"]}}}, ""),
        ({"backends": {"main": {"available": False, "queue_depth": 3}}}, "3 waiting"),
        ({"backends": {"main": {"available": True, "queue_depth": 3}}}, ""),
        (
            {
                "gateways": {
                    "gw-b": {"finishing": ["main/a:1"]},
                    "gw-c": {"live": False, "lost": "2026-11-30T10:00:00Z"},
                    "gw-d": {"finishing": ["main/b:1", "main/a:1"]},
                }
            },
            "some may be in flight at gw-b, gw-d",
        ),
    ],
)
def test_what_workers_do_not_say_and_other_gateways_have_is_in_flight(
    status: dict[str, Any], said: str
) -> None:
    assert in_flight(status, "main", "a:1") == said


def test_who_has_no_time_left_at_the_first_look_is_told_what_is_in_flight(capsys) -> None:
    moments = iter([0.0, 9.0])
    assert wait_until_empty(
        lambda: "2 in flight", progress=sys.stderr, timeout_s=0.1, clock=lambda: next(moments)
    )
    assert capsys.readouterr().err.splitlines() == ["2 in flight"]


def test_waiting_tells_each_new_count_once(capsys) -> None:
    counts = iter(["3 in flight", "3 in flight", "1 in flight", ""])
    assert not wait_until_empty(
        lambda: next(counts), progress=sys.stderr, clock=lambda: 0.0, sleep=lambda _: None
    )
    assert capsys.readouterr().err.splitlines() == ["3 in flight", "1 in flight"]

"""What the commands that edit send, show and refuse."""

import json

import yaml

from gateway.cli.editing import wait_until_empty


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
    assert headgate("restore", "42", "--if-revision", "43").code == 1
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
        1, "headgate: there is no route 'digit' (did you mean 'digits'?)\n",
    )  # fmt: skip
    ran = headgate("weights", "digits", "digit-cnn=5")
    assert (ran.code, ran.err) == (
        1, "headgate: there is no backend 'digit-cnn' (did you mean 'digits-cnn'?)\n",
    )  # fmt: skip
    assert player.revision == 42


def test_a_weight_that_is_none_is_wrong_usage_and_sends_nothing(headgate, player) -> None:
    for word in ("digits-cnn=-1", "digits-cnn=1.5", "digits-cnn", "=5", "digits-cnn=1000001",
                 "digits-cnn=", "digits-cnn=٣"):  # fmt: skip
        ran = headgate("weights", "digits", word)
        assert ran.code == 2, word
        assert ran.err.startswith("headgate: "), word
    assert headgate("weights", "digits", "square=1", "square=2").code == 2
    assert player.asked == []


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


def test_apply_names_the_settings_that_take_a_restart(headgate, player, tmp_path) -> None:
    (tmp_path / "new.yaml").write_text(yaml.safe_dump({"gateway": {"workers": 2}, **player.table}))
    assert headgate("apply", "new.yaml").out.splitlines() == [
        "nothing would change",
        "! gateway/workers: differs from what runs; settings are read at the next start",
    ]


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
    assert ran.err == "headgate: routes: is missing\nheadgate: backends: has no entry\n"
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
    assert "did you mean '127.0.0.1:80" in ran.err
    ran = headgate("drain", "127.0.0.1:8002", "--backend", "digits-cn")
    assert ran.err == "headgate: there is no backend 'digits-cn' (did you mean 'digits-cnn'?)\n"


def test_drain_waits_until_nothing_is_in_flight(headgate, player) -> None:
    ran = headgate("drain", "127.0.0.1:8002", "--wait")
    assert ran.code == 0
    assert ran.out.startswith("127.0.0.1:8002: drained")
    player.set_live("digits-cnn", "127.0.0.1:8003", in_flight=2)
    ran = headgate("drain", "127.0.0.1:8003", "--wait", "--timeout", "0.1")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "2 in flight",
        "headgate: 127.0.0.1:8003 still has requests in flight after 0.1 s",
    ]


def test_waiting_tells_each_new_count_once(capsys) -> None:
    import sys

    counts = iter([3, 3, 1, 0])
    assert wait_until_empty(
        lambda: next(counts), progress=sys.stderr, clock=lambda: 0.0, sleep=lambda _: None
    )
    assert capsys.readouterr().err.splitlines() == ["3 in flight", "1 in flight"]

"""What the commands that only look show, to people and to programs."""

import json


def test_routes_names_each_with_its_match_and_split(headgate) -> None:
    ran = headgate("routes")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "ROUTE   MATCH       SPLIT",
        "digits  /digits     digits-linear 90  digits-cnn 10",
        "square  /v1/square  square 1",
        "revision 42",
    ]


def test_backends_names_each_instance_once(headgate, player) -> None:
    player.table["backends"]["digits-cnn"]["states"] = {"127.0.0.1:8003": "draining"}
    lines = headgate("backends").out.splitlines()
    assert lines[1].split() == ["digits-linear", "http://127.0.0.1:8001", "least_loaded"]
    assert lines[2].split() == ["digits-cnn", "http://127.0.0.1:8002", "least_loaded"]
    assert lines[3].split() == ["http://127.0.0.1:8003", "draining"]


def test_status_shows_shares_health_and_what_is_in_flight(headgate, player) -> None:
    player.set_live("digits-cnn", "127.0.0.1:8002", health="down")
    player.set_live("digits-cnn", "127.0.0.1:8003", health="down")
    player.set_live("digits-linear", "127.0.0.1:8001", in_flight=3)
    out = headgate("status").out
    assert "digits-linear      90    100.0 %" in out
    assert "digits-cnn         10      0.0 %" in out
    assert ["127.0.0.1:8002", "down", "0"] in [line.split()[:3] for line in out.splitlines()] or (
        "127.0.0.1:8002  down" in out
    )
    assert out.splitlines()[-1] == "revision 42 on 1 worker"


def test_status_names_a_worker_that_lags(headgate, player, monkeypatch) -> None:
    status = player.status() | {
        "workers": [{"slot": 0, "revision": 42}, {"slot": 1, "revision": 41}]
    }
    monkeypatch.setattr(player, "status", lambda: status)
    assert "revision 42 on 2 workers; not there yet: 1" in headgate("status").out


def test_an_ejected_or_drained_instance_says_so_instead_of_its_probes(headgate, player) -> None:
    player.set_live("digits-cnn", "127.0.0.1:8002", ejected_s=4.2)
    player.table["backends"]["digits-cnn"]["states"] = {"127.0.0.1:8003": "disabled"}
    out = headgate("status").out
    assert "127.0.0.1:8002  ejected 4 s" in out
    assert "127.0.0.1:8003  disabled" in out


def test_every_reading_command_prints_json_when_asked(headgate) -> None:
    for command in ("routes", "backends", "status", "history"):
        assert isinstance(json.loads(headgate(command, "--json").out), dict), command
    assert json.loads(headgate("weights", "digits", "--json").out)["weights"] == {
        "digits-linear": 90,
        "digits-cnn": 10,
    }


def test_history_is_newest_first_and_says_who_and_why(headgate) -> None:
    headgate("weights", "digits", "digits-cnn=50", "-m", "half")
    lines = headgate("history").out.splitlines()
    assert lines[1].split()[:1] == ["43"]
    assert "operator" in lines[1]
    assert "half" in lines[1]
    assert "~ digits/digits-cnn: 10 → 50" in lines[1]
    assert len(headgate("history", "--limit", "1").out.splitlines()) == 2


def test_history_of_one_revision_shows_its_difference(headgate) -> None:
    headgate("weights", "digits", "digits-cnn=50", "--reason", "half")
    lines = headgate("history", "43").out.splitlines()
    assert lines[0].startswith("revision 43, ")
    assert lines[0].endswith("by operator: half")
    assert lines[1] == "~ routes/digits/split/digits-cnn: 10 → 50"


def test_top_looks_again_and_again(headgate, player) -> None:
    ran = headgate("top", "--count", "2", "--interval", "0.1")
    assert ran.code == 0
    assert ran.out.count("revision 42 on 1 worker") == 2


def test_names_cannot_take_over_a_terminal(headgate, player) -> None:
    player.table["routes"]["\x1b[2Jevil"] = {"match": "/", "split": {"square": 1}}
    out = headgate("routes").out
    assert "\x1b" not in out
    assert "\\x1b[2Jevil" in out

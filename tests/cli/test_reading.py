"""What the commands that only look show, to people and to programs."""

import json
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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


def test_what_is_wrong_comes_first(headgate, player) -> None:
    text = "75 % of route digits is not served: digits-cnn cannot"
    player.alerts = [{"severity": "critical", "kind": "not_served", "route": "r", "text": text}]
    assert headgate("status").out.splitlines()[:2] == [text, ""]
    assert headgate("top", "--count", "1").out.splitlines()[0] == text


def test_answers_are_shown_apart_and_times_with_the_digits_that_are_known(
    headgate, player, monkeypatch
) -> None:
    status = player.status()
    backend = status["backends"]["square"]
    backend["answers_per_s"] |= {"4xx": 17.0, "499": 1.4, "5xx": 3.0, "refused": 0.05}
    backend["latency_ms"] = {"p50": 0.01234, "p95": 98.76, "p99": 12345.6}
    monkeypatch.setattr(player, "status", lambda: status)
    lines = headgate("status").out.replace(" %", "%").splitlines()
    heads, row = lines[0], lines[3]
    shown = dict(zip(heads.replace(" MS", "_MS").split()[2:], row.split()[2:], strict=False))
    assert shown["2XX"] == "12.5"
    assert [shown[kind] for kind in ("4XX", "499", "5XX", "REFUSED")] == [
        "17.0", "1.40", "3.00", "0.05",
    ]  # fmt: skip
    assert [shown[f"P{point}_MS"] for point in (50, 95, 99)] == ["0.0123", "98.8", "12,300"]


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


def test_history_shows_as_many_as_were_asked_for_in_however_many_pages(headgate, player) -> None:
    edit = {"time": "2026-11-22T11:00:00Z", "who": "operator", "why": "", "diff": []}
    player.revisions = [{"revision": number, **edit} for number in range(3001, 0, -1)]
    for limit, shown in (("1000", 1000), ("1001", 1001), ("2500", 2500), ("9999", 3001)):
        ran = headgate("history", "-n", limit, "--json")
        assert (ran.code, ran.err) == (0, "")
        found = json.loads(ran.out)
        assert [each["revision"] for each in found["revisions"]] == [*range(3001, 3001 - shown, -1)]
        assert found["next"] == (None if shown == 3001 else 3002 - shown)


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


def test_watching_prints_the_rows_that_change_and_no_others(player) -> None:
    words = ("status", "--watch", "-n", "0.1", "--url", player.url)
    watch = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert watch.stdout is not None
    assert watch.stderr is not None
    try:
        while not watch.stdout.readline().startswith("revision 42 on"):
            pass
        player.set_live("square", "127.0.0.1:8001", in_flight=3)  # measured, not decided
        player.set_live("digits-cnn", "127.0.0.1:8002", health="down")
        assert watch.stdout.readline().split()[:4] == ["digits-cnn", "127.0.0.1:8002", "down", "0"]
        player.alerts = [{"severity": "critical", "kind": "k", "text": "all is lost"}]
        assert watch.stdout.readline() == "all is lost\n"
        with player.lock:
            player.table["routes"]["digits"]["split"]["digits-cnn"] = 90
            player.alerts = []
        assert watch.stdout.readline().split()[:3] == ["digits", "digits-linear", "90"]
        assert watch.stdout.readline().split()[:3] == ["digits", "digits-cnn", "90"]
        assert watch.stdout.readline() == "gone: all is lost\n"
        player.broken = True
        assert watch.stderr.readline().startswith("headgate: no gateway answers at ")
        player.broken = False
        with player.lock:
            player.table["backends"]["digits-cnn"]["instances"].pop()
        effective = [watch.stdout.readline().split()[1:4] for _ in range(2)]
        assert effective == [["digits-linear", "90", "100.0"], ["digits-cnn", "90", "0.0"]]
        assert watch.stdout.readline() == "gone: digits-cnn  127.0.0.1:8003\n"
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == -signal.SIGINT
        assert watch.stderr.read() == ""
    finally:
        watch.kill()
        watch.communicate()


def test_watching_for_a_program_prints_what_is_live_when_it_changed(player) -> None:
    words = ("status", "--watch", "-o", "yaml", "-n", "0.1", "--url", player.url)
    watch = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )
    assert watch.stdout is not None
    try:
        assert watch.stdout.readline() == "---\n"
        assert watch.stdout.readline() == "revision: 42\n"
        player.set_live("digits-cnn", "127.0.0.1:8002", health="down")
        assert "---\n" in iter(watch.stdout.readline, "")
    finally:
        watch.kill()
        watch.communicate()


def test_names_cannot_take_over_a_terminal(headgate, player) -> None:
    player.table["routes"]["\x1b[2Jevil"] = {"match": "/", "split": {"square": 1}}
    out = headgate("routes").out
    assert "\x1b" not in out
    assert "\\x1b[2Jevil" in out

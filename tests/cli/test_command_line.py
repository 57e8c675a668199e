"""Exit codes, one line on stderr, tokens and URLs: how every command behaves alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import finding, main
from gateway.cli.commands import SHOWN
from tests.cli.admin_player import AdminPlayer
from tests.harness.ports import free_port

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gateway.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=environment, timeout=60, **options,
    )  # fmt: skip


def test_a_wrong_word_is_usage_and_names_the_nearest_one(headgate) -> None:
    ran = headgate("wieghts")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == (
        "headgate: there is no command 'wieghts' (did you mean 'weights'?)"
    )
    ran = headgate("status", "--jsno")
    assert ran.code == 2
    assert "(did you mean '--json'?)" in ran.err
    ran = headgate("weights")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == "headgate: the following arguments are required: route"


def test_no_word_at_all_shows_the_help_and_is_still_wrong(headgate) -> None:
    ran = headgate()
    assert (ran.code, ran.out) == (2, "")
    assert "\n    weights " in ran.err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("restore", "x"), "'x' is not a whole number above 0"),
        (("restore", "0"), "'0' is not a whole number above 0"),
        (("history", "-n", "-1"), "'-1' is not a whole number above 0"),
        (("top", "-n", "nan"), "'nan' is not a number of seconds"),
        (("drain", "a", "--timeout", "1h"), "'1h' is not a number of seconds"),
    ],
)
def test_a_number_that_is_none_is_told_as_such(headgate, words, line) -> None:
    ran = headgate(*words)
    assert ran.code == 2
    assert ran.err.splitlines()[0].endswith(f": {line}")


def test_help_names_every_command_and_no_hidden_one(headgate) -> None:
    ran = headgate("--help")
    assert ran.code == 0
    for command in SHOWN:
        assert f"\n    {command.name} " in ran.out
        if command.name != "instance":  # that one is another program
            assert headgate(command.name, "--help").code == 0
    assert "_names" not in ran.out


def test_nobody_listening_is_one_line(headgate, monkeypatch) -> None:
    monkeypatch.setenv("HEADGATE_URL", "http://127.0.0.1:9")
    ran = headgate("status")
    assert ran.code == 1
    assert ran.err == "headgate: no gateway answers at http://127.0.0.1:9: connection refused\n"


def test_nobody_at_the_usual_place_is_told_how_to_name_another(capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        "gateway.cli.finding.DEFAULT_URL", gone := f"http://127.0.0.1:{free_port()}"
    )
    monkeypatch.setattr("gateway.cli.refusals.DEFAULT_URL", gone)
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        f"headgate: no gateway answers at {gone}: connection refused;"
        " if it listens elsewhere, say where with --url or HEADGATE_URL\n"
    )


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://u:p@127.0.0.1:1", "http://", "http://x:99999", "http://x:y", "http://[::1"],
)
def test_a_url_that_is_none_is_one_line_that_names_it(headgate, url, tmp_path) -> None:
    (tmp_path / ".headgate").mkdir()  # so that a token may be looked for
    ran = headgate("status", "--url", url)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert repr(url) in ran.err


@pytest.mark.parametrize("words", [("status",), ("weights", "digits"), ("apply", "f.yaml")])
def test_what_is_no_admin_api_is_told_as_such(headgate, player, tmp_path, words) -> None:
    (tmp_path / "f.yaml").write_text("routes: {}")
    ran = headgate(*words, "--url", f"{player.url}/elsewhere")
    assert ran.code == 1
    said = f"what answers at {player.url}/elsewhere is not the admin API of a gateway"
    assert ran.err == f"headgate: {said}\n"


def test_https_where_there_is_none_is_one_line(headgate, player) -> None:
    ran = headgate("status", "--url", player.url.replace("http:", "https:"))
    assert ran.code == 1
    assert "no TLS there" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_the_token_is_sent_in_the_header_only(capsys, monkeypatch) -> None:
    with AdminPlayer(token="s" * 32) as player:
        assert main(["status", "--url", player.url]) == 1
        error = capsys.readouterr().err
        assert error.startswith("headgate: the admin API wants another token")
        assert len(error.splitlines()) == 1
        assert main(["status", "--url", player.url, "--token", "s" * 32]) == 0
        monkeypatch.setenv("HEADGATE_TOKEN", "s" * 32)
        assert main(["status", "--url", player.url]) == 0
        assert all("s" * 32 not in path for _, path, _ in player.asked)


def test_the_token_of_a_local_state_directory_is_found_by_itself(capsys, tmp_path, monkeypatch):
    state = tmp_path / ".headgate"
    state.mkdir()
    (state / "token").write_text("t" * 40 + "\n")
    below = tmp_path / "deep" / "er"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    with AdminPlayer(token="t" * 40) as player:
        assert main(["status", "--url", player.url]) == 0
    capsys.readouterr()
    assert main(["token"]) == 0
    assert capsys.readouterr().out == "t" * 40 + "\n"
    assert main(["token", str(tmp_path / "headgate.yaml")]) == 0


def test_a_token_of_this_machine_never_leaves_it(tmp_path) -> None:
    (tmp_path / "token").write_text("t" * 40)
    here = finding.find_token(None, "http://localhost:8081", tmp_path, {})
    there = finding.find_token(None, "http://headgate.example:8081", tmp_path, {})
    assert (here, there) == ("t" * 40, None)
    assert finding.find_token(None, "http://[::1]:8081", tmp_path, {}) == "t" * 40
    # what was said outright goes where it was said to go
    assert finding.find_token("x", "http://headgate.example", tmp_path, {}) == "x"


def test_no_state_directory_is_one_line(headgate, tmp_path) -> None:
    ran = headgate("token")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    ran = headgate("token", "--state-dir", str(tmp_path))
    assert ran.code == 1
    assert "holds no token" in ran.err


def test_a_reader_that_leaves_is_no_error(player) -> None:
    script = (
        f"{sys.executable} -c 'import sys; from gateway.cli import main; sys.exit(main())'"
        f" status --url {player.url} | true"
    )
    ran = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert ran.stderr == ""


def test_workers_and_version_load_neither_rich_nor_pydantic() -> None:
    code = (
        "import sys; from gateway.cli import main; main(['--version']);"
        "print([m for m in sys.modules if m.split('.')[0] in ('rich', 'pydantic', 'yaml')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "[]"


def test_an_instance_is_its_own_program(tmp_path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "__init__.py").touch()
    (tmp_path / "instance" / "__main__.py").write_text("import sys; print(sys.argv[1:])")
    code = "import sys; from gateway.cli import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", code, "instance", "m:N", "--port", "0", "--help"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert ran.stdout == "['m:N', '--port', '0', '--help']\n"


def test_an_option_before_the_command_is_told_its_place(headgate) -> None:
    ran = headgate("--url", "http://127.0.0.1:1", "routes")
    assert (ran.code, ran.out) == (2, "")
    assert "options come after the command: headgate COMMAND --url" in ran.err


def test_completion_for_another_shell_is_wrong_usage(headgate) -> None:
    ran = headgate("completion", "fsh")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == "headgate: no completion for 'fsh' (did you mean 'fish'?)"


def test_completion_asks_the_gateway_for_names(headgate, monkeypatch) -> None:
    assert headgate("_names", "route").out.split() == ["digits", "square"]
    assert headgate("_names", "weight").out.split()[0] == "digits-linear="
    assert "127.0.0.1:8003" in headgate("_names", "instance").out.split()
    monkeypatch.setenv("HEADGATE_URL", "http://127.0.0.1:9")
    ran = headgate("_names", "route")
    assert (ran.out, ran.err) == ("", "")


def test_json_of_an_edit_is_the_answer_of_the_admin_api(headgate) -> None:
    answer = json.loads(headgate("weights", "digits", "digits-cnn=20", "--json").out)
    assert answer["revision"] == 43
    assert answer["previous"] == {"digits-linear": 90, "digits-cnn": 10}


def test_check_names_every_problem_with_its_line(headgate, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "gateway: {listne: 0.0.0.0:1}\n"
        "backends:\n  a: {instances: ['http://127.0.0.1:8001']}\n"
        "routes:\n  r:\n    match: /x\n    split: {a: -1, aa: 3}\n"
    )
    ran = headgate("check", "bad.yaml")
    assert ran.code == 1
    first, second, third = ran.err.splitlines()
    assert first.startswith("bad.yaml:1: gateway/listne: ")
    assert "did you mean listen?" in first
    assert second.startswith("bad.yaml:7: routes/r/split/a: ")
    assert third.startswith("bad.yaml:7: routes/r/split/aa: ")
    problems = json.loads(headgate("check", "bad.yaml", "--json").out)["problems"]
    assert [problem["line"] for problem in problems] == [1, 7, 7]


def test_check_of_a_good_file_says_so(headgate) -> None:
    ran = headgate("check", str(ROOT / "examples" / "digits" / "headgate.yaml"))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("headgate.yaml is valid\n")


@pytest.mark.parametrize("command", ["up", "gateway", "check", "apply"])
def test_a_file_that_is_not_there_is_one_line(headgate, command, tmp_path) -> None:
    ran = headgate(command, "nowhere.yaml")
    assert ran.code == 1
    assert "nowhere.yaml" in ran.err
    assert len(ran.err.splitlines()) == 1
    ran = headgate(command, str(tmp_path))
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["up", "gateway", "check"])
def test_malformed_yaml_is_one_line(headgate, command, tmp_path) -> None:
    (tmp_path / "m.yaml").write_text("routes: [\n")
    ran = headgate(command, "m.yaml")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1

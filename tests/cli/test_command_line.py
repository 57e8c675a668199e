"""Exit codes, one line on stderr, tokens and URLs: how every command behaves alike."""

import copy
import json
import os
import resource
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli import elsewhere, finding, main
from gateway.cli.commands import COMMANDS, HEADGATE
from gateway.controlplane.configuration.yaml_source import read
from tests.cli.admin_player import AdminPlayer, look
from tests.harness.certificates import make_ca
from tests.harness.ports import free_port

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    code = "import sys; from gateway.cli import main; sys.exit(main())"
    options.setdefault("env", {**os.environ, "PYTHONPATH": str(ROOT)})
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=60, **options,
    )  # fmt: skip


# What a command prints waits in a buffer, as it does where nobody asked for something else.
BUFFERED = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    "PYTHONPATH": str(ROOT),
}
PRINTED = [
    ("--version",), ("--help",), ("help", "weights"), ("completion", "bash"), ("schema",),
    ("check", "-o", "json", str(ROOT / "examples/digits/headgate.yaml")), ("instance", "--help"),
]  # fmt: skip


def into(output: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """How `headgate` ends with its output redirected as a shell says it."""
    line = ["sh", "-c", f'exec "$0" -m gateway "$@" {output}', sys.executable, *arguments]
    options = {"env": {**BUFFERED, **env}, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(line, **options)


def unread(*words: str) -> subprocess.CompletedProcess[str]:
    """How `headgate` ends when whoever read its output has left."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-m", "gateway", *words],
            env=BUFFERED, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writer)


@pytest.mark.parametrize("words", PRINTED, ids=lambda words: words[0])
def test_output_that_nobody_reads_is_no_fault(words) -> None:
    ran = unread(*words)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("words", PRINTED, ids=lambda words: words[0])
def test_output_that_finds_no_room_is_one_line(words) -> None:
    ran = into("> /dev/full", *words)
    assert ran.returncode == 1
    assert ran.stderr.endswith(": no space left on device\n")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("words", PRINTED, ids=lambda words: words[0])
def test_output_that_is_closed_is_no_fault(words) -> None:
    ran = into("<&- >&-", *words)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_command_without_any_open_stream_does_what_it_does(player) -> None:
    ran = into("<&- >&- 2>&-", "weights", "digits", "digits-cnn=20", HEADGATE_URL=player.url)
    assert ran.returncode == 0
    assert player.table["routes"]["digits"]["split"]["digits-cnn"] == 20


@pytest.mark.parametrize("words", [("check", "no.yaml"), ("weights", "digits"), ("nothing",), ()])
def test_a_refusal_that_nobody_reads_is_one_all_the_same(words) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = {**BUFFERED, "HEADGATE_URL": f"http://127.0.0.1:{free_port()}"}
    ran = subprocess.run([sys.executable, "-m", "gateway", *words], env=env, stderr=writer)
    os.close(writer)
    assert ran.returncode == (1 if words[1:] else 2)


@pytest.mark.parametrize("form", ["table", "json"])
def test_an_edit_is_made_whole_though_nobody_reads_what_it_says(player, tmp_path, form) -> None:
    for backend in ("digits-cnn", "square"):
        player.table["backends"][backend]["serve"] = {"model": "models:Cnn"}
    player.fleet = {"revision": player.revision, "backends": {}}
    file = tmp_path / "headgate.yaml"
    wanted = copy.deepcopy(player.table)
    wanted["routes"]["digits"]["split"] = {"digits-linear": 50, "digits-cnn": 50}
    file.write_text(json.dumps(wanted))
    for words in (("apply", str(file)), ("scale", "digits-cnn=2", "square=3")):
        ran = unread(*words, "-o", form, "--url", player.url)
        assert (ran.returncode, ran.stderr) == (0, "")
    assert player.table["routes"]["digits"]["split"] == {"digits-linear": 50, "digits-cnn": 50}
    backends = player.table["backends"]
    assert [backends[name]["serve"]["replicas"] for name in ("digits-cnn", "square")] == [2, 3]


FOLLOWING = [
    (("status", "--watch"), 0, ""),
    (("top",), 0, ""),
    (("logs", "digits-cnn", "-f"), 0, ""),
    # It is not done, and 0 would say that.
    (
        ("rollout", "digits"),
        1,
        "headgate: nobody reads this any more; the rollout of digits goes on\n",
    ),
]


@pytest.mark.parametrize(
    ("words", "code", "said"), FOLLOWING, ids=["status", "top", "logs", "rollout"]
)
def test_what_follows_ends_with_its_reader_and_not_with_the_next_change(
    player, words, code, said
) -> None:
    player.lines["digits-cnn"] = [{"number": 1, "instance": "127.0.0.1:1", "text": "loaded"}]
    player.rollouts["digits"] = [look()]
    following = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words, "--url", player.url],
        env=BUFFERED, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with following:
        assert following.stdout.readline()
        following.stdout.close()
        assert following.wait(60) == code
        assert following.stderr.read() == said


def test_what_the_output_cannot_show_is_an_escape_and_an_edit_is_no_refusal(player) -> None:
    words = ("weights", "digits", "digits-cnn=20")
    ran = into("", *words, HEADGATE_URL=player.url, PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\u2192" in ran.stdout


def test_a_wrong_word_is_usage_and_names_the_nearest_one(headgate) -> None:
    ran = headgate("wieghts")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == (
        "headgate: no such command 'wieghts'. Did you mean 'weights'?"
    )
    ran = headgate("status", "--jsno")
    assert ran.code == 2
    assert "Did you mean '--json'?" in ran.err
    assert ran.err.splitlines()[1] == "try: headgate status --help"
    ran = headgate("weights")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == "headgate: missing argument 'ROUTE'."


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("get routes", "no such command 'get': see `headgate routes`, `headgate backends` or"),
        ("validate x.yaml", "no such command 'validate': see `headgate check FILE`"),
        ("down", "no such command 'down': Ctrl-C or SIGTERM ends `headgate up`"),
        ("apply -f x.yaml", "no such option '-f': the file stands there by itself: headgate apply"),
        ("up -d", "no such option '-d': it stays in the foreground"),
        ("scale --replicas=3 a", "no such option '--replicas': write it as: headgate scale"),
        ("logs a --config x", "no such option '--config'."),
    ],
)  # fmt: skip
def test_a_word_of_another_program_is_answered_by_the_one_that_does_it_here(
    headgate, words, line
) -> None:
    ran = headgate(*words.split())
    assert ran.code == 2
    assert ran.err.splitlines()[0].startswith(f"headgate: {line}")


def test_what_is_shown_for_words_of_other_programs_can_be_typed(headgate) -> None:
    known = {command.name for command in COMMANDS}
    for line in elsewhere.commands():
        assert line.split()[0] in known
        assert not elsewhere.command(line.split()[0])
        options = [word for word in line.split() if word.startswith("-")]
        assert all(option in headgate(line.split()[0], "--help").out for option in options)


def test_a_file_that_was_left_out_and_lies_here_is_named(headgate, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert headgate("up").err.splitlines()[0] == "headgate: missing argument 'FILE'."
    (tmp_path / "headgate.yaml").touch()
    ran = headgate("up")
    line = "headgate: missing argument 'FILE': headgate up headgate.yaml"
    assert (ran.code, ran.err.splitlines()[0]) == (2, line)


def test_a_file_that_is_called_otherwise_is_named(headgate, tmp_path) -> None:
    (tmp_path / "headgate.yaml").touch()
    ran = headgate("check", str(tmp_path / "headgate.yml"))
    said = f"headgate: there is no file {tmp_path}/headgate.yml (did you mean headgate.yaml?)\n"
    assert (ran.code, ran.err) == (1, said)
    assert headgate("up", "").err == "headgate: there is no file ''\n"


def test_the_version_for_programs(headgate) -> None:
    said = json.loads(headgate("version", "--json").out)
    assert set(said) == {"version", "compiled"}
    assert f"headgate {said['version']} (" in headgate("version").out


def test_how_a_command_is_written_is_shown_whatever_is_wrong(headgate) -> None:
    ran = headgate("restore", "1", "--timeout")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "try: headgate restore --help")
    ran = headgate("rollout", "digits", "digits-cnn", "--steps", "1,inf")
    assert ran.code == 2
    assert "'1,inf' is no list of percents" in ran.err


def test_a_file_of_models_that_is_not_there_is_answered_by_the_one_that_was_meant(
    headgate, tmp_path
) -> None:
    (tmp_path / "server.py").touch()
    for model in ("sever.py", "sever.py:Linear"):
        ran = headgate("up", model)
        assert ran.code == 1
        assert ran.err == "headgate: there is no file sever.py (did you mean server.py?)\n"


@pytest.mark.parametrize("file", ["server.py", "headgate.yaml"])
def test_a_file_without_a_command_is_told_the_one_that_serves_it(headgate, file) -> None:
    ran = headgate(file)
    assert ran.code == 2
    assert ran.err.splitlines()[0].endswith(f": see `headgate up {file}`")


def test_a_url_may_have_space_around_it_and_none_in_it(headgate, player) -> None:
    assert headgate("routes", "--url", f" {player.url}\n").code == 0
    ran = headgate("routes", "--url", "http://a b")
    said = "headgate: 'http://a b' is not the http:// or https:// URL of an admin API\n"
    assert (ran.code, ran.err) == (1, said)


def test_a_backend_that_is_like_none_is_answered_by_those_there_are(headgate, player) -> None:
    for words in (("drain", "a:1", "--backend", "x"), ("weights", "digits", "x=1")):
        ran = headgate(*words)
        assert ran.code == 1
        assert ran.err.startswith("headgate: there is no backend 'x' (there is digits-linear, ")


def test_no_word_at_all_shows_the_help_and_is_still_wrong(headgate) -> None:
    ran = headgate()
    assert (ran.code, ran.out) == (2, "")
    assert "\n  weights " in ran.err


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


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_names_every_command_with_an_example_that_can_be_typed(headgate, command) -> None:
    assert f"\n  {command.name} " in headgate("--help").out
    if command.name == "instance":  # another program: its tests
        return
    ran = headgate(command.name, "--help")
    assert ran.code == 0
    assert headgate("help", command.name).out == ran.out
    example = ran.out.rpartition("Example: headgate ")[2].partition(">")[0]
    name, *words = shlex.split(example)
    assert name == command.name
    with command.make_context(name, words, parent=HEADGATE.make_context("headgate", [name])):
        pass


def test_help_of_a_word_that_is_none_names_the_nearest_one() -> None:
    ran = run("help", "wieghts")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Did you mean 'weights'?" in ran.stderr
    ran = run("help")
    assert ran.returncode == 0
    assert "\n  weights " in ran.stdout


def test_the_version_can_be_asked_for_as_a_command_too() -> None:
    ran = run("version")
    assert ran.returncode == 0
    assert ran.stdout == run("--version").stdout
    assert ran.stdout.startswith("headgate ")


def test_the_version_says_in_which_form_the_request_path_runs() -> None:
    import gateway.core.heads

    form = "pure Python" if gateway.core.heads.__file__.endswith(".py") else "compiled"
    assert run("version").stdout.endswith(f" ({form})\n")


def test_the_schema_is_the_one_that_is_shipped() -> None:
    ran = run("schema")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout) == json.loads((ROOT / "gateway/headgate.schema.json").read_text())


@pytest.mark.parametrize(
    "words",
    [("routes",), ("backends",), ("status",), ("history",), ("weights", "digits"),
     ("top", "--count", "1"), ("weights", "digits", "digits-cnn=20", "--dry-run"),
     ("disable", "127.0.0.1:8002", "--dry-run"), ("restore", "42", "--dry-run")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_yaml_says_what_json_says(player, words) -> None:
    printed = run(*words, "-o", "json", "--url", player.url)
    assert run(*words, "--json", "--url", player.url).stdout == printed.stdout
    as_yaml = run(*words, "-o", "yaml", "--url", player.url)
    assert (as_yaml.returncode, as_yaml.stderr) == (0, "")
    assert read(as_yaml.stdout).value == json.loads(printed.stdout)


def test_a_form_that_is_none_is_wrong_usage(headgate, player) -> None:
    ran = headgate("status", "-o", "xml")
    assert ran.code == 2
    assert "'xml' is not one of 'table', 'json', 'yaml'" in ran.err
    assert player.asked == []


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


ASKING = [
    ("status",), ("top",), ("routes",), ("backends",), ("keys",), ("export",), ("apply", "f.yaml"),
    ("weights", "digits"), ("mirror", "digits"), ("rollout", "digits"), ("drain", "127.0.0.1:1"),
    ("rollout", "digits", "digits-cnn", "-d"), ("key", "add", "acme"), ("key", "revoke", "acme"),
    ("scale", "digits-cnn=2"), ("restart", "digits-cnn"), ("logs", "digits-cnn"), ("history",),
    ("history", "1"), ("restore", "1"),
]  # fmt: skip


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_what_is_no_admin_api_is_told_as_such(headgate, player, tmp_path, words) -> None:
    (tmp_path / "f.yaml").write_text("routes: {}")
    with origin(lambda path: (200, b'{"ok": true}')) as everything, origin(missing) as nothing:
        for url in (f"{player.url}/elsewhere", everything, nothing):
            ran = headgate(*words, "--url", url)
            assert ran.code == 1
            assert ran.err == f"headgate: what answers at {url} is not the admin API of a gateway\n"
            assert ran.out == ""


def missing(path: str) -> tuple[int, bytes]:
    """The answer of a gateway's data plane, where no route is for it."""
    return 404, b'{"title": "No route matches", "status": 404, "code": "no_route"}'


@contextmanager
def origin(answer: Callable[[str], tuple[int, bytes]]) -> Iterator[str]:
    """The URL of a server that is no gateway and answers in JSON."""

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = _any

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_https_where_there_is_none_is_one_line(headgate, player) -> None:
    ran = headgate("status", "--url", player.url.replace("http:", "https:"))
    assert ran.code == 1
    assert "no TLS there" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_files_that_make_no_tls_are_told_by_what_is_wrong_with_them(headgate, tmp_path) -> None:
    (one, key), (_, other) = (make_ca(tmp_path, name) for name in ("one", "other"))
    said = f"headgate: {one} and its key cannot be used"
    url = ("--url", "https://127.0.0.1:9")
    for words, err in (
        (("--client-cert", str(one), "--client-key", str(other)), "the key is not the certificate"),
        (("--client-cert", str(one)), "no PEM that can be used"),
    ):
        ran = headgate("status", *url, *words)
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert ran.err.startswith(f"{said}: {err}")
        assert "_ssl.c" not in ran.err
    ran = headgate("status", *url, "--cacert", str(key))
    assert ran.err.startswith(f"headgate: {key} holds no certificates: no PEM that can be used (")


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
    found = SimpleNamespace(token=None, state_dir=str(tmp_path))
    here = finding.find_token(found, "http://localhost:8081")
    there = finding.find_token(found, "http://headgate.example:8081")
    assert (here, there) == ("t" * 40, None)
    assert finding.find_token(found, "http://[::1]:8081") == "t" * 40
    assert finding.find_token(found, "http://192.0.2.7:8081") is None
    # what was said outright goes where it was said to go
    said = SimpleNamespace(token="x", state_dir=None)
    assert finding.find_token(said, "http://headgate.example") == "x"


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


def test_workers_and_version_load_neither_rich_nor_pydantic_nor_click() -> None:
    code = (
        "import sys; from gateway.cli import main; main(['--version']);"
        "slow = {'rich', 'pydantic', 'yaml', 'click'};"
        "print([m for m in sys.modules if m.split('.')[0] in slow])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.alone
@pytest.mark.parametrize("words", [("--version",), ("status",), ("weights", "digits")])
def test_a_command_takes_a_quarter_of_a_second_of_a_processor_at_most(player, words) -> None:
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    took = []
    for _ in range(5):
        before = spent()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HEADGATE_URL": player.url}
        assert run(*words, env=environment).returncode == 0
        took.append(spent() - before)
    assert min(took) < 0.25


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


@pytest.mark.parametrize("name", ["json", "queue", "uuid"])
def test_an_instance_beside_a_file_that_hides_pythons_own_is_refused_in_one_line(
    tmp_path, name
) -> None:
    (tmp_path / f"{name}.py").touch()
    ran = run("instance", "models.py:Model", cwd=tmp_path)
    said = f"{tmp_path}/{name}.py stands in the place of Python's own {name}: rename it"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"headgate: {said}\n")


def test_an_instance_beside_a_file_that_hides_what_nobody_needs_is_started(tmp_path) -> None:
    (tmp_path / "this.py").touch()
    ran = run("instance", "--help", cwd=tmp_path)
    assert ran.returncode == 0
    assert "Usage: headgate instance" in ran.stdout


def test_a_working_directory_that_was_removed_is_named(tmp_path) -> None:
    there = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir ../gone && exec"
    for words in ("status", "up models.py"):
        line = f'{there} "{sys.executable}" -P -m gateway {words}'
        ran = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        said = "headgate: the working directory is not there any more: change to another\n"
        assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)


def test_a_word_that_is_not_utf_8_is_named(headgate) -> None:
    ran = headgate("weights", os.fsdecode(b"digits\xff"))
    assert (ran.code, ran.err) == (1, "headgate: 'digits\\xff' is not UTF-8\n")


def test_what_may_not_be_looked_at_around_a_command_is_passed_over(tmp_path) -> None:
    """Somebody else's folder, say. Here what lies in one has too long a path for anybody."""
    deep = tmp_path
    while len(str(deep)) < 4085:
        deep /= "x" * min(200, 4085 - len(str(deep)) - 1)
        deep.mkdir()
    (deep / "m").mkdir()
    there = {**os.environ, "PYTHONPATH": str(ROOT), "HEADGATE_URL": ""}
    ran = run("instance", "--help", cwd=deep, env=there)
    assert (ran.returncode, ran.stderr) == (0, "")
    ran = run("token", cwd=deep, env=there)
    said = "headgate: there is no state directory here: say which with --state-dir\n"
    assert (ran.returncode, ran.stderr) == (1, said)


def test_every_command_runs_something_that_is_there(headgate) -> None:
    ran = headgate("--", "instance")
    said = "headgate: write it as: headgate instance MODEL [options]"
    assert (ran.code, ran.err) == (2, f"{said}\ntry: headgate instance --help\n")


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--port", "80"), ("up", "--write", "x.yaml"), ("up", "--on", "ray", "--reload"),
        ("gateway", "--take-over", "--on", "ray"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_do_not_go_together_are_wrong_usage(headgate, tmp_path, words) -> None:
    (tmp_path / "headgate.yaml").write_text("backends: {}\nroutes: {}\n")
    ran = headgate(*words, "headgate.yaml")
    assert ran.code == 2
    assert ran.err.startswith(f"headgate: {words[-1] if words[1] == '--on' else words[1]} is for ")
    assert ran.err.endswith(f"\ntry: headgate {words[0]} --help\n")


def test_an_option_before_the_command_is_told_its_place(headgate) -> None:
    ran = headgate("--url", "http://127.0.0.1:1", "routes")
    assert (ran.code, ran.out) == (2, "")
    assert "Options come after the command: headgate COMMAND --url" in ran.err


def test_completion_for_another_shell_is_wrong_usage(headgate) -> None:
    ran = headgate("completion", "fsh")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == (
        "headgate: invalid value for 'SHELL': 'fsh' is not one of 'bash', 'zsh', 'fish'."
    )


def test_completion_asks_the_gateway_that_the_line_means(player) -> None:
    def offered(line: str, url: str = player.url) -> list[str]:
        ran = run(env={**os.environ, "PYTHONPATH": str(ROOT), "_HEADGATE_LINE": line,
                       "HEADGATE_URL": url})  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        return [each.partition(",")[2].partition("\t")[0] for each in ran.stdout.splitlines()]

    assert offered("headgate weights ") == ["digits", "square"]
    assert offered("headgate weights digits ")[0] == "digits-linear="
    assert offered("headgate drain ")[-1] == "127.0.0.1:8001"
    assert offered("headgate drain --state-dir . 127.0.0.1:8003") == ["127.0.0.1:8003"]
    assert offered("headgate help wei") == ["weights"]
    assert offered("headgate routes -o ") == ["table", "json", "yaml"]
    nobody = f"http://127.0.0.1:{free_port()}"
    assert offered("headgate weights ", nobody) == []
    assert offered(f"headgate weights --url {player.url} ", nobody) == ["digits", "square"]
    for name in ("$(touch x)", "a b", "a\nplain,b", "`x`"):
        player.table["routes"][name] = player.table["routes"]["square"]
    assert offered("headgate weights ") == ["digits", "square"]
    assert "--max-batch-size" in offered("headgate instance models.py:Linear --max-b")


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
    assert read(headgate("check", "bad.yaml", "-o", "yaml").out).value["problems"] == problems


def test_check_says_what_a_start_on_this_machine_would_lack(headgate, tmp_path) -> None:
    (tmp_path / "there.py").write_text("")
    (tmp_path / "far.yaml").write_text(
        "gateway:\n"
        "  tls: {cert: nowhere.crt, key: nowhere.key}\n"
        "  access_log: no-such-folder/access.log\n"
        "backends:\n"
        "  one: {serve: {model: nowhere.py:One}}\n"
        "  two: {serve: {model: no_such_module:Two, env: {A: {env: NO_SUCH_VARIABLE}}}}\n"
        "  three: {serve: {model: there.py:Three, python: no-such-python}}\n"
        "  four: {headers: {Authorization: {file: no-such-token}}}\n"
        "  fine: {serve: {model: there.py:Fine}}\n"
        "routes:\n  one: {match: /one, split: {one: 1}}\n"
        f"keys:\n  old: {{hashes: ['sha256:{'0' * 64}'], expires: '2020-01-01T00:00:00Z'}}\n"
    )
    ran = headgate("check", "far.yaml")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "far.yaml is valid")
    assert [line.split(": ")[:3] for line in ran.err.splitlines()] == [
        ["far.yaml:2", "warning", "gateway/tls"],
        ["far.yaml:3", "warning", "gateway/access_log"],
        ["far.yaml:5", "warning", "backends/one/serve/model"],
        ["far.yaml:6", "warning", "backends/two/serve/model"],
        ["far.yaml:6", "warning", "backends/two/serve/env/A"],
        ["far.yaml:7", "warning", "backends/three/serve/python"],
        ["far.yaml:8", "warning", "backends/four/headers/Authorization"],
        ["far.yaml:13", "warning", "keys/old/expires"],
    ]
    told = json.loads(headgate("check", "far.yaml", "--json").out)
    assert (told["ok"], told["problems"], len(told["warnings"])) == (True, [], 8)
    assert not (tmp_path / "no-such-folder").exists()


def test_a_tilde_is_home_in_files_that_are_named_wherever_it_stands(
    headgate, tmp_path, monkeypatch
) -> None:
    home = tmp_path / "home"
    (home / "state").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("model.py", "token", "python"):
        (home / name).write_text("x")
    (home / "python").chmod(0o700)
    (home / "headgate.yaml").write_text(
        "gateway: {access_log: ~/access.log}\n"
        "backends:\n"
        "  a: {serve: {model: '~/model.py:A', python: ~/python}}\n"
        "  b: {instances: [http://127.0.0.1:8001], headers: {Authorization: {file: ~/token}}}\n"
        "routes: {a: {match: /a, split: {a: 1}}}\n"
    )
    ran = headgate("check", "~/headgate.yaml")
    assert (ran.code, ran.err) == (0, "")
    (home / "state" / "token").write_text("t" * 40)
    assert headgate("token", "--state-dir=~/state").out == "t" * 40 + "\n"
    monkeypatch.setenv("HEADGATE_STATE_DIR", "~/state")
    assert headgate("token").out == "t" * 40 + "\n"


@pytest.mark.parametrize("command", ["check", "gateway"])
def test_a_place_in_a_file_is_named_as_people_write_it(headgate, command, tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text("routes:\n  a/b~c: {match: /x, split: {}}\n")
    ran = headgate(command, "bad.yaml")
    assert ran.code == 1
    assert "routes/a/b~c: " in ran.err


def test_check_of_a_good_file_says_so(headgate) -> None:
    ran = headgate("check", str(ROOT / "examples" / "digits" / "headgate.yaml"))
    assert (ran.code, ran.err) == (0, "")
    first, *ways = ran.out.splitlines()
    assert first.endswith("headgate.yaml is valid")
    assert ways == ["  /digits → digits-linear 90, digits-cnn 10, at /predict"]


@pytest.mark.parametrize("command", ["gateway", "check"])
@pytest.mark.parametrize("code", ["class Hello:\n    x = 1\n", '"""A model."""\nimport os\n'])
def test_code_in_the_place_of_a_configuration_is_named_with_what_serves_it(
    headgate, command, code, tmp_path
) -> None:
    (tmp_path / "my model.py").write_text(code)
    ran = headgate(command, "my model.py")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "my model.py: is Python code and no configuration" in line
    assert line.endswith("headgate up 'my model.py'")


def test_a_file_may_come_in_on_standard_input(player) -> None:
    player.table["routes"]["digits"]["split"] = {"digits-linear": 1, "digits-cnn": 1}
    exported = run("export", "--url", player.url).stdout
    checked = run("check", "-", input=exported)
    assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "- is valid"), checked
    assert run("check", "-", input="a: 1\n").stderr == "-:1: a: unknown key\n"
    assert run("apply", "-", "--url", player.url, input=exported).stdout == "nothing would change\n"
    changed = exported.replace("digits-cnn: 1", "digits-cnn: 3")
    assert run("apply", "-", "--url", player.url, input=changed).returncode == 0
    assert player.table["routes"]["digits"]["split"]["digits-cnn"] == 3


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


def test_a_value_without_an_end_is_not_repeated_whole(headgate, tmp_path) -> None:
    long = "x" * 5000
    (tmp_path / "long.yaml").write_text(f"backends: {{a: {{{long[:1000]}: 1}}}}\nroutes: {{}}\n")
    for words in (
        ("weights", "digits", f"digits-cnn={long}"), (long,), ("drain", long), ("check", long),
        ("check", "long.yaml"), ("up", "long.yaml"), ("up", "m.py", "--timeout", long),
    ):  # fmt: skip
        ran = headgate(*words)
        assert ran.code in (1, 2)
        assert "xxx…xxx" in ran.err, words
        assert all(len(line) < 600 for line in ran.err.splitlines()), words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cpu,nope:3"), "--device: 'nope:3' is no device; write cpu, cuda:N, mps or"),
        (("--batch-timeout", "soon"), "--batch-timeout: 'soon' is no "),
        (("--timeout", "-1"), "--timeout: '-1' is no duration"),
    ],
)
def test_an_option_that_cannot_be_is_named_and_no_file_that_nobody_wrote(
    headgate, tmp_path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit('it is not even looked at')")
    ran = headgate("up", "server.py", *words)
    assert ran.code == 2, ran
    assert ran.err.startswith(f"headgate: {said}"), ran
    assert ran.err.endswith("\ntry: headgate up --help\n"), ran
    assert ".yaml" not in ran.err
    assert not (tmp_path / ".headgate").exists()

"""`headgate up server.py`: what a file has to serve is served, without a configuration."""

import asyncio
import importlib.util
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.cli import main
from gateway.controlplane.configuration.reading import load
from gateway.processes.shadowed import shadowed
from gateway.up.offering import NothingToServe, Offer, called, document, is_model, offers
from tests.harness.gateway import ROOT, START_S, Gateway, complete, eventually
from tests.harness.ports import free_port

from .waiting import alive, descendants

MODELS = """
from instance import endpoint

class Square:
    def setup(self, device):
        pass

    def predict(self, x):
        return {"square": x["input"] ** 2}

@endpoint("/double")
def double(x):
    return x * 2

class Helper:
    pass
"""

LITSERVE = """
import litserve as ls

class Lit(ls.LitAPI):
    def setup(self, device):
        self.factor = 3

    def decode_request(self, request):
        return request["input"]

    def predict(self, x):
        return self.factor * x

    def encode_response(self, output):
        return {"output": output}

if __name__ == "__main__":
    server = ls.LitServer(Lit(), accelerator="cpu")
    server.run(port=8000)
"""


def write(folder: Path, text: str, name: str = "server.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_what_is_code_and_what_is_a_configuration(tmp_path: Path) -> None:
    assert [is_model(each) for each in ("server.py", "a/server.py:Name", "pkg.mod:Name")] == [
        True, True, True,
    ]  # fmt: skip
    assert [is_model(each) for each in ("headgate.yaml", "conf/x.json", str(tmp_path))] == [
        False, False, False,
    ]  # fmt: skip


def test_every_model_of_a_file_is_found_with_its_path(tmp_path: Path) -> None:
    write(tmp_path, MODELS)
    assert offers("server.py", tmp_path) == [
        Offer("Square", "/predict"), Offer("double", "/double")
    ]  # fmt: skip
    assert offers("server.py:double", tmp_path) == [Offer("double", "/double")]
    assert offers("server:Square", tmp_path) == [Offer("Square", "/predict")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "server.py defines nothing to serve: a class with setup(device) and predict(x)"),
        ("import nowhere_at_all", "imports 'nowhere_at_all', which is not installed"),
        ("raise ValueError('no')", "failed: ValueError: no"),
        ("raise ValueError", "failed: ValueError (server.py, line 1)"),
        ("x = 1\ndef f():\n  open('/nowhere/at/all')\nf()", "(server.py, line 3)"),
        ("x = 1\ny = )", "failed: SyntaxError: unmatched ')' (server.py, line 2)"),
        ("import litserve as ls\nls.LitServer\nraise ValueError", "ValueError (server.py, line 3)"),
        (
            "import litserve as ls\n\ndef make():\n  ls.LitServer(None)\n\nraise KeyError",
            "failed: KeyError (server.py, line 6)",
        ),
        (
            "class M:\n  def __init__(self): raise ValueError\n  def setup(self, device): pass\n"
            "  def predict(self, x): pass",
            "server.py:M() failed: ValueError (server.py, line 2)",
        ),
        ("import os; os._exit(3)", "server.py could not be looked at: {} exited with code 3"),
        (
            "import os; print('so far'); os._exit(0)",
            "{} exited with code 0; it printed last: so far",
        ),
        ("import os; os.kill(os.getpid(), 9)", "could not be looked at: {} was ended by SIGKILL"),
        (
            "import os; print('well', flush=True); os.kill(os.getpid(), 11)",
            "could not be looked at: {} was ended by SIGSEGV; it printed last: well",
        ),
    ],
)
def test_a_file_with_nothing_to_serve_is_one_clear_line(
    tmp_path: Path, text: str, words: str
) -> None:
    write(tmp_path, text)
    with pytest.raises(NothingToServe) as refused:
        offers("server.py", tmp_path)
    assert words.format("the process that runs it") in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not str(refused.value).rstrip().endswith(":")


def test_code_that_no_process_can_be_had_for_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, MODELS)
    for number in range(20):  # each as long as a variable may be: together no process takes them
        monkeypatch.setenv(f"LONG_{number}", "x" * 130_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, hard))
    try:
        with pytest.raises(NothingToServe) as refused:
            offers("server.py", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
    assert str(refused.value) == "server.py could not be looked at: argument list too long"


def test_code_in_a_folder_that_takes_no_state_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "server.py"
    file.write_text(
        "class Same:\n    def setup(self, d): pass\n    def predict(self, x): return x\n"
    )
    (tmp_path / ".headgate").touch()
    assert main(["up", str(file)]) == 1
    (_, line) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"headgate: state directory {tmp_path}/.headgate: ")
    assert line.endswith("; --state-dir (HEADGATE_STATE_DIR) names another")


def test_the_configuration_is_one_that_a_person_could_have_written(tmp_path: Path) -> None:
    made = document(
        "server.py:", [Offer("Square", "/predict"), Offer("DigitsCnn", "/digits")],
        {"devices": ["cpu"]}, {"listen": "0.0.0.0:9000"},
    )  # fmt: skip
    assert made == {
        "gateway": {"listen": "0.0.0.0:9000"},
        "backends": {
            "square": {"serve": {"model": "server.py:Square", "devices": ["cpu"]}},
            "digits-cnn": {"serve": {"model": "server.py:DigitsCnn", "devices": ["cpu"]}},
        },
        "routes": {
            "square": {"match": "/predict", "split": {"square": 1}},
            "digits-cnn": {"match": "/digits", "split": {"digits-cnn": 1}},
        },
    }
    file = tmp_path / "headgate.yaml"
    file.write_text(yaml.safe_dump(made))
    load(file)
    two = document("m.py", [Offer("A", "/predict"), Offer("B", "/predict")], {}, {})
    assert [route["match"] for route in two["routes"].values()] == ["/a", "/b"]
    chat = document("m.py", [Offer("Chat", "/v1/chat/completions")], {}, {})
    assert chat["routes"]["chat"] == {"match": "/v1", "rewrite": "/v1", "split": {"chat": 1}}
    own = document("srv.py", [Offer("", "/a"), Offer("", "/b")], {}, {})
    assert list(own["backends"]) == ["srv"]
    assert [(r["match"], r["rewrite"]) for r in own["routes"].values()] == [
        ("/a", "/a"), ("/b", "/b")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "backend"),
    [("DigitsCnn", "digits-cnn"), ("HTTPModel", "http-model"), ("my_fn", "my-fn"), ("É", "model")],
)
def test_backends_are_called_as_their_models(name: str, backend: str) -> None:
    assert called(name) == backend


class OneLine(Gateway):
    """`headgate up server.py` in its own folder."""

    options: tuple[str, ...] = ()

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "up", "server.py"),
                *("--port", str(self.data_port), *self.options),
                cwd=self.folder,
                env={**self.env, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await eventually(self.answers, START_S, "both listeners answer")
        self.family()


@asynccontextmanager
async def one_line(folder: Path, *options: str, **variables: str) -> AsyncIterator[OneLine]:
    settings = complete({"backends": {}, "routes": {}}, {})
    environment = {"HEADGATE_ADMIN": settings["gateway"]["admin"], "HEADGATE_LAME_DUCK": "0s"}
    it = OneLine(folder, settings, {**environment, **variables})
    it.options = options
    try:
        await it.start()
        yield it
    finally:
        await it.client.close()
        if it.process is not None:
            for pid in [it.process.pid, *descendants(it.process.pid)]:
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
            await it.process.wait()


async def test_a_strangers_file_is_served_and_the_configuration_written(tmp_path: Path) -> None:
    write(tmp_path, MODELS)
    asked = ("--device", "cpu", "--batch-timeout", "0.5", "--timeout", "0")
    async with one_line(tmp_path, "--write", "made.yaml", *asked) as it:
        squared = await it.client.json("POST", f"{it.url}/predict", {"input": 3})
        assert squared.json() == {"square": 9}
        assert (await it.client.json("POST", f"{it.url}/double", 4)).json() == 8
        await it.logged("server.py:Square answers at /predict")
        made = load(tmp_path / "made.yaml").document
        assert made["backends"]["square"]["serve"] == {
            "model": "server.py:Square", "devices": ["cpu"],
            "batch_timeout": "0.5s", "timeout": "0s",  # as for an instance: seconds, 0 for ever
        }  # fmt: skip
        await it.stop()


async def test_what_serves_code_is_exported_with_the_settings_that_were_made(
    tmp_path: Path,
) -> None:
    write(tmp_path, MODELS)
    async with one_line(tmp_path, "--device", "cpu") as it:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "export"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, said = await process.communicate()
        assert (process.returncode, said) == (0, b"")
        exported = yaml.safe_load(told)
        assert exported["gateway"] == {"listen": f"0.0.0.0:{it.data_port}"}
        assert exported["backends"]["square"]["serve"]["model"] == "server.py:Square"
        await it.stop()


def test_a_port_that_is_taken_is_told_with_what_names_another_where_nobody_wrote_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, MODELS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for listen, admin, mend in (
            (f"127.0.0.1:{port}", "127.0.0.1:0", "--port names another"),
            ("127.0.0.1:0", f"127.0.0.1:{port}", "HEADGATE_ADMIN names another"),
        ):
            monkeypatch.setenv("HEADGATE_LISTEN", listen)
            monkeypatch.setenv("HEADGATE_ADMIN", admin)
            assert main(["up", str(file)]) == 1
            said = f"cannot listen on 127.0.0.1:{port}: the port is taken by another program"
            assert capsys.readouterr().err.splitlines()[-1] == f"headgate: {said}; {mend}"


async def test_a_second_start_that_is_refused_leaves_the_first_ones_configuration_alone(
    tmp_path: Path,
) -> None:
    write(tmp_path, MODELS)
    async with one_line(tmp_path, "--device", "cpu") as it:
        before = (tmp_path / ".headgate" / "made.yaml").read_text()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "up", "server.py"),
            *("--port", "0", "--max-batch-size", "7"),
            cwd=tmp_path,
            env={**it.env, "PYTHONPATH": str(ROOT), "HEADGATE_ADMIN": "127.0.0.1:0"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 1
        assert b".headgate is in use by another gateway" in said.splitlines()[-1]
        assert (tmp_path / ".headgate" / "made.yaml").read_text() == before
        await it.stop()


async def test_a_port_that_is_typed_wins_over_the_environment(tmp_path: Path) -> None:
    """And what that says of the address holds: whoever listens on loopback goes on to."""
    write(tmp_path, MODELS)
    elsewhere = f"127.0.0.1:{free_port()}"
    async with one_line(tmp_path, "--device", "cpu", HEADGATE_LISTEN=elsewhere) as it:
        await it.logged(f"requests  http://127.0.0.1:{it.data_port}")
        with pytest.raises(OSError):  # 0.0.0.0 would be reached so
            await asyncio.open_connection("127.0.0.2", it.data_port)
        await it.stop()


@pytest.mark.skipif(not importlib.util.find_spec("litserve"), reason="litserve is not installed")
async def test_a_file_of_litserve_is_served_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path, LITSERVE)
    async with one_line(tmp_path) as it:
        answer = await it.client.json("POST", f"{it.url}/predict", {"input": 5})
        assert answer.json() == {"output": 15}
        await it.stop()


VERSION = """
class Model:
    def setup(self, device):
        pass

    def predict(self, x):
        return {{"version": {version}}}
"""


async def test_code_that_changes_is_loaded_anew_under_load_and_broken_code_is_not(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, VERSION.format(version=1))
    seen: Counter[int] = Counter()
    wrong: list[Any] = []
    async with one_line(tmp_path, "--reload") as it:
        over = asyncio.Event()

        async def ask() -> None:
            while not over.is_set():
                reply = await it.client.json("POST", f"{it.url}/predict", {})
                if reply.ok:
                    seen[reply.json()["version"]] += 1
                else:
                    wrong.append((reply.status, reply.error, reply.body))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask())
            group.create_task(ask())
            try:
                await eventually(lambda: seen[1] > 5)
                file.write_text(VERSION.format(version=2))
                await eventually(lambda: seen[2] > 5)
                file.write_text("def broken(:\n")
                await eventually(lambda: "SyntaxError" in it.log_text())
                seen.clear()
                await eventually(lambda: seen[2] > 5)
                file.write_text(VERSION.format(version=3))
                await eventually(lambda: seen[3] > 5)
            finally:
                over.set()
        assert wrong == []
        await it.logged("the version before goes on answering")
        await it.stop()


async def test_options_of_a_model_are_refused_beside_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text("backends: {}\nroutes: {}\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "up", str(tmp_path / "headgate.yaml"), "--port", "80"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--port is for a model (server.py)" in said


def test_a_file_that_stands_in_the_place_of_pythons_own_is_named(tmp_path: Path) -> None:
    write(tmp_path, MODELS)
    write(tmp_path, "x = 1", "json.py")
    with pytest.raises(NothingToServe) as refused:
        offers("server.py", tmp_path)
    hidden = f"{tmp_path}/json.py stands in the place of Python's own json: rename it"
    assert str(refused.value).endswith(f"; {hidden}")
    assert "\n" not in str(refused.value)
    (tmp_path / "other" / "queue").mkdir(parents=True)  # no module
    for name in ("models.py", "sys.py"):  # nobody's, and one that is found before any folder
        assert shadowed(write(tmp_path / "other", "", name).parent) is None
    (tmp_path / "other" / "instance").mkdir()
    write(tmp_path / "other" / "instance", "", "__init__.py")
    hidden = f"{tmp_path}/other/instance stands in the place of Headgate's own instance: rename it"
    assert shadowed(tmp_path / "other", frozenset({"instance"})) == hidden
    assert shadowed(tmp_path / "other", frozenset()) is None


@pytest.mark.parametrize("model", [".:Square", "..server:Square", ":Square"])
def test_a_model_of_no_module_is_told_how_one_is_named(tmp_path: Path, model: str) -> None:
    with pytest.raises(NothingToServe) as refused:
        offers(model, tmp_path)
    said = "MODEL must be package.module:Name or path/to/file.py:Name"
    assert str(refused.value) == said


def test_an_interpreter_without_headgate_is_told_what_it_lacks(tmp_path: Path) -> None:
    write(tmp_path, MODELS)
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho "$0: No module named instance" >&2\nexit 1\n')
    bare.chmod(0o700)
    serve = f"{{model: 'server.py:Square', python: {bare}, devices: [cpu]}}"
    settings = "gateway: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}"
    file = write(tmp_path, f"{settings}\nbackends: {{a: {{serve: {serve}}}}}\n", "headgate.yaml")
    ran = subprocess.run(
        [sys.executable, "-m", "gateway", "up", str(file)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "headgate: backend a: model server.py:Square could not be started:"
        f" {bare}: No module named instance; {bare} needs Headgate itself too, and what the model"
        " imports"
    )


def test_code_that_is_not_through_after_long_is_told_and_waited_for(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    write(tmp_path, f"open({str(gate)!r}).read()\n{MODELS}")
    said: list[str] = []

    def let_go_on(line: str) -> None:
        said.append(line)
        gate.write_text("")

    assert len(offers("server.py", tmp_path, let_go_on, long_s=0.1)) == 2
    (line,) = said
    assert line.startswith("server.py is still being run, to see what it serves: ")


def test_what_a_file_starts_as_it_is_looked_at_holds_nobody_up_and_ends(tmp_path: Path) -> None:
    begin = "import subprocess\nidle = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(idle.pid))\n"
    write(tmp_path, begin + note + MODELS)
    assert len(offers("server.py", tmp_path)) == 2
    assert not alive(int((tmp_path / "pid").read_text()))

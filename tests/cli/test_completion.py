"""What the completion offers in real shells: bash, which cuts words at `:` and `=`, zsh, fish."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from gateway.cli import main
sys.exit(main())
"""
BASH = "PS1='$ '\nsource <(headgate completion bash)\n"
ZSH = "PS1='$ '\nautoload -Uz compinit; compinit -u -d dump\nsource <(headgate completion zsh)\n"


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


def environment(folder: Path, url: str) -> dict[str, str]:
    """A home without settings, where `headgate` is this one and means the gateway at `url`."""
    command = folder / "headgate"
    command.write_text(COMMAND.format(python=sys.executable, root=str(ROOT)))
    command.chmod(0o755)
    home = {name: str(folder) for name in ("HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, **home, "HEADGATE_URL": url, "PATH": path, "TERM": "dumb"}


def shown(written: str) -> str:
    """What stands on the line once a terminal has obeyed the backspaces in `written`."""
    line, at = "", 0
    for character in written:
        if character == "\b":
            at -= 1
        else:
            line, at = line[:at] + character + line[at + 1 :], at + 1
    return line


class Shell:
    """An interactive shell with the completion loaded, on a pseudo-terminal."""

    def __init__(self, arguments: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.pid, self._end = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(arguments[0], arguments, variables)
        self._read("$ ")

    def completed(self, typed: str) -> str:
        """What the line reads after `headgate ` once words and a tab were typed on an empty one."""
        os.write(self._end, f"\x15headgate {typed}\tX".encode())
        return shown(self._read("X").rpartition("headgate ")[2]).removesuffix("X")

    def _read(self, until: str, within_s: float = 60.0) -> str:
        seen, deadline = "", time.monotonic() + within_s
        while until not in seen:
            assert time.monotonic() < deadline, f"{until!r} is not in {seen!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                seen += os.read(self._end, 1 << 16).decode().replace("\a", "")
        return seen

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._end)


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in ("bash", "zsh")])
def shell(request: pytest.FixtureRequest, tmp_path: Path, player) -> Iterator[Shell]:
    (tmp_path / "rc").write_text(BASH)
    (tmp_path / ".zshrc").write_text(ZSH)
    variables = environment(tmp_path, player.url)
    arguments = {"bash": ["bash", "--rcfile", "rc", "-i"], "zsh": ["zsh", "-i"]}[request.param]
    found = Shell(arguments, tmp_path, variables)
    yield found
    found.close()


def test_commands_options_and_shells_are_completed(shell: Shell) -> None:
    assert shell.completed("wei") == "weights "
    assert shell.completed("status --u") == "status --url "
    assert shell.completed("completion z") == "completion zsh "
    assert shell.completed("help dra") == "help drain "
    assert shell.completed("status -o y") == "status -o yaml "
    assert shell.completed("instance m.py:A --max-ba") == "instance m.py:A --max-batch-size "


def test_each_place_has_its_own_names(shell: Shell) -> None:
    assert shell.completed("weights di") == "weights digits "
    assert shell.completed("weights digits digits-c") == "weights digits digits-cnn="
    after_option = shell.completed("weights -m why digits digits-c")
    assert after_option == "weights -m why digits digits-cnn="
    second = shell.completed("weights digits digits-cnn=5 digits-l")
    assert second == "weights digits digits-cnn=5 digits-linear="


def test_an_address_is_completed_across_its_colon(shell: Shell) -> None:
    assert shell.completed("drain 127") == "drain 127.0.0.1:800"
    assert shell.completed("drain 127.0.0.1:8003") == "drain 127.0.0.1:8003 "
    assert shell.completed("drain --backend digits-c") == "drain --backend digits-cnn "
    assert shell.completed("drain 127.0.0.1:8001 --wa") == "drain 127.0.0.1:8001 --wait "


def test_a_token_that_is_typed_is_in_no_process_list(shell: Shell, tmp_path: Path) -> None:
    secret = "s" * 40
    (tmp_path / "headgate").rename(tmp_path / "this")
    for name, program in (("headgate", tmp_path / "this"), ("env", "/usr/bin/env")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho $* >>seen\nexec {program} "$@"\n')
        (tmp_path / name).chmod(0o755)
    completed = shell.completed(f"weights --token {secret} di")
    assert completed == f"weights --token {secret} digits "
    assert secret not in (tmp_path / "seen").read_text()


def test_files_are_completed_through_folders(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "two words.yaml").write_text("")
    assert shell.completed("apply so") == "apply some.yaml "
    assert shell.completed("apply some.yaml --dry") == "apply some.yaml --dry-run "
    assert shell.completed("apply fol") == "apply folder/"
    assert shell.completed("apply folder/t") == r"apply folder/two\ words.yaml "
    assert shell.completed("up --state-dir fol") == "up --state-dir folder/"
    assert shell.completed("status --cacert so") == "status --cacert some.yaml "
    assert shell.completed("status --client-key fol") == "status --client-key folder/"


def test_a_value_is_completed_behind_its_options_equals_sign(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "some.yaml").write_text("")
    assert shell.completed("status --output=j") == "status --output=json "
    assert shell.completed("drain --backend=digits-c") == "drain --backend=digits-cnn "
    assert shell.completed("up --state-dir=fol") == "up --state-dir=folder/"
    assert shell.completed("status --cacert=so") == "status --cacert=some.yaml "
    assert shell.completed("weights --reason=a=b di") == "weights --reason=a=b digits "


@needs("fish")
def test_fish_offers_what_belongs_to_the_place(tmp_path: Path, player) -> None:
    (tmp_path / "some.yaml").write_text("")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "two words.yaml").write_text("")
    variables = environment(tmp_path, player.url)

    def offered(line: str) -> list[str]:
        script = 'headgate completion fish | source; complete -C "headgate $argv[1]"'
        ran = subprocess.run(
            ["fish", "-c", script, line],
            env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ran.stderr == ""
        return [row.partition("\t")[0] for row in ran.stdout.splitlines()]

    assert offered("wei") == ["weights"]
    assert offered("weights ") == ["digits", "square"]
    assert offered("weights digits digits-c") == ["digits-cnn="]
    assert offered("weights -m why digits digits-c") == ["digits-cnn="]
    assert offered("weights digits digits-cnn=5 digits-l") == ["digits-linear="]
    assert offered("drain 127.0.0.1:8003") == ["127.0.0.1:8003"]
    assert offered("drain --backend digits-c") == ["digits-cnn"]
    assert offered("drain 127.0.0.1:8001 --wa") == ["--wait"]
    assert offered("apply so") == ["some.yaml"]
    assert offered("apply 'so") == ["some.yaml"]
    assert offered("apply a\\ fol") == ["a folder/"]
    assert offered("apply a\\ folder/tw") == ["a folder/two words.yaml"]
    assert offered("apply 'a folder/two w") == ["a folder/two words.yaml"]
    assert offered("up --state-dir='a f") == ["--state-dir=a folder/"]
    assert offered("status --output=j") == ["--output=json"]
    assert offered("status --cacert=so") == ["--cacert=some.yaml"]
    assert offered("drain --backend=digits-c") == ["--backend=digits-cnn"]
    assert offered("completion ") == ["bash", "fish", "zsh"]
    assert offered("help dra") == ["drain"]
    assert offered("instance m.py:A --max-b") == ["--max-batch-size", "--max-body"]

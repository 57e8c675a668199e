"""`headgate init`: what it writes runs, as its README says."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.cli import main
from gateway.cli.beginning import FILES, README
from gateway.controlplane.configuration.reading import load
from tests.harness.full_disk import NO_BYTECODE
from tests.harness.gateway import ROOT, complete
from tests.harness.orphans import kill_all
from tests.harness.up import Up

HELLO = "\n".join(
    f"class Model{number}:\n    def setup(self, device): pass\n    def predict(self, x): pass"
    for number in range(9)
)


async def test_what_init_writes_is_served_and_tested(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    assert main(["init", str(folder)]) == 0
    assert sorted(each.name for each in folder.iterdir()) == sorted(FILES)
    assert len(README.splitlines()) <= 14
    document = complete(load(folder / "headgate.yaml").document, {})
    up = Up(folder, document, {})
    try:
        await up.start()
        await up.wait_up(2)
        body = {"text": "a word or three"}
        counts = {
            (await up.client.json("POST", f"{up.url}/words", body)).json()["words"]
            for _ in range(20)
        }
        assert counts == {4, 2}
        await up.stop()
    finally:
        await up.client.close()
        kill_all(up.family())

    tested = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_models.py"),
        cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await tested.communicate()
    assert tested.returncode == 0, out.decode()
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["headgate"]
    assert service["entrypoint"][:3] == ["headgate", "up", "headgate.yaml"]


def test_what_is_there_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.py").write_text("mine")
    assert main(["init", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"headgate: {tmp_path / 'models.py'} is there already; name another folder\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["models.py"]


def test_what_cannot_be_written_whole_is_not_begun(tmp_path: Path) -> None:
    """Where a disk is full; here no file may have more than a block."""
    line = 'ulimit -f 1 && exec "$0" -m gateway "$@"'
    (tmp_path / "hello.py").write_text(HELLO)
    for words, file in (
        (["init", "words"], "words/models.py"),
        (["up", "hello.py", "--write", "h.yaml"], f"{tmp_path}/h.yaml"),
    ):
        ran = subprocess.run(
            ["sh", "-c", line, sys.executable, *words], cwd=tmp_path, capture_output=True,
            text=True, env={**os.environ, **NO_BYTECODE, "PYTHONPATH": str(ROOT)}, timeout=60,
        )  # fmt: skip
        said = f"headgate: {file}: file too large"
        assert (ran.returncode, ran.stderr.splitlines()[-1]) == (1, said)
    assert list((tmp_path / "words").iterdir()) == []
    assert not (tmp_path / "h.yaml").exists()


def test_how_to_go_on_can_be_typed_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, typed in (("my words", "'my words'"), ("-x", "./-x")):
        assert main(["init", "--", name]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"next: cd {typed} && headgate up headgate.yaml"

"""What a killed gateway leaves behind is cleared up by the next one, and nothing else is."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.processes.private_directory import LOCK, PREFIX, PrivateDirectory

ROOT = Path(__file__).parents[2]
OTHER = """
import sys, pathlib, tempfile
from gateway.processes.private_directory import PrivateDirectory
tempfile.tempdir = sys.argv[1]
print(PrivateDirectory(pathlib.Path("unused")).path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for the name of a socket, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture
def temporary(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    return short


@pytest.fixture
def other(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a directory of its own, which holds a file."""
    command = [sys.executable, "-c", OTHER, str(temporary)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        (path / "headgate.yaml").write_text("token: secret")
        yield process, path
        process.kill()


def test_what_a_killed_gateway_left_is_removed_by_the_next(other, temporary: Path) -> None:
    process, path = other
    process.kill()
    process.wait()
    assert path.exists()
    mine = PrivateDirectory(Path("unused"))
    assert list(temporary.iterdir()) == [mine.path]
    mine.close()
    assert list(temporary.iterdir()) == []


def test_a_gateway_that_runs_keeps_its_directory(other) -> None:
    _, path = other
    PrivateDirectory(Path("unused")).close()
    assert (path / "headgate.yaml").exists()


def test_what_is_not_locked_by_a_gateway_is_nobodys_to_remove(temporary: Path) -> None:
    for name in (f"{PREFIX}mine", "headgate-demo"):
        (temporary / name).mkdir(mode=0o700)
        (temporary / name / "headgate.yaml").touch()
    (temporary / "headgate-demo" / LOCK).touch()
    PrivateDirectory(Path("unused")).close()
    assert len(list(temporary.iterdir())) == 2


def test_without_a_place_for_what_is_temporary_the_state_directory_holds_it(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short / "not there"))
    made = PrivateDirectory(short / "state")
    assert made.path.parent == short / "state"
    assert made.path.stat().st_mode & 0o777 == 0o700
    made.close()

"""How the benchmark's commands take what is typed, and what they keep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import ROOT
from benchmarks.saving import Unusable, save, saved

SCRIPTS = sorted(
    f"benchmarks.{file.stem}".removesuffix(".__main__")
    for file in (ROOT / "benchmarks").glob("*.py")
    if '__name__ == "__main__"' in file.read_text()
)


def asked(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_how_it_is_used(script: str) -> None:
    done = asked(script, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("benchmarks", "nothing"), "no such section: nothing"),
        (("benchmarks.simulate_limits", "ten"), "invalid int value: 'ten'"),
        (("benchmarks.simulate_limits", "1", "nowhere"), "no case has 'nowhere' in its name"),
        (("benchmarks.plain_aiohttp", "8000", "8001"), "'8001' is not WEIGHT:PORT"),
        (("benchmarks.posting", "http://x", "/nowhere", "1", "1"), "/nowhere: No such file"),
    ],
)
def test_bad_words_get_one_error(words: tuple[str, ...], why: str) -> None:
    done = asked(*words)
    assert done.returncode == 2
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_is_saved_is_added_to(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert saved(file) == saved(None) == {}
    save(file, saved(file) | {"idle": {"connections": 1}})
    save(file, saved(file) | {"events": {}})
    found = saved(file)
    assert (found["idle"], found["events"]) == ({"connections": 1}, {})
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"requests": {}})])
def test_what_another_version_saved_is_not_added_to(tmp_path: Path, text: str) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(Unusable, match="name another file"):
        saved(file)
    assert file.read_text() == text

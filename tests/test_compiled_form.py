"""What is built of the sources where a wheel is made; whether it works is what
`make test-compiled` finds out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.gateway import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What `setup.py` needs to decide."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "licenses", tmp_path / "licenses")
    return tmp_path


def build(tree: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree,
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_without_a_compiler_one_line_says_that_the_form_is_the_pure_one(tree: Path) -> None:
    ran = build(tree, HEADGATE_COMPILE="auto", CC="/nonexistent/cc")
    assert ran.returncode == 0
    (line,) = [each for each in ran.stderr.splitlines() if each.startswith("headgate: ")]
    assert line == "headgate: built as pure Python, for lack of a C compiler or Python's headers"
    assert not list(tree.rglob("*.so"))


def test_what_is_no_answer_to_whether_to_compile_is_refused(tree: Path) -> None:
    ran = build(tree, HEADGATE_COMPILE="maybe")
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["HEADGATE_COMPILE is 'maybe', and must be 0, 1 or auto"]


def test_a_program_that_is_not_there_is_not_compiled(tree: Path) -> None:
    ran = build(tree, HEADGATE_COMPILE="1")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert not list(tree.rglob("*.so"))


def test_every_module_that_is_compiled_is_there() -> None:
    listed: dict[str, str] = {}
    source = (ROOT / "setup.py").read_text()
    exec(source[source.index("HOT = ") : source.index("BUILDING")], {}, listed)
    hot: dict[str, str] = listed["HOT"]  # type: ignore[assignment]
    for folder, names in hot.items():
        for name in names.split():
            assert (ROOT / folder / f"{name}.py").is_file(), name

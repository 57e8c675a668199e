"""What a newcomer copies from README, docs and examples works as it stands."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.harness.late import late_or_skip

ROOT = Path(__file__).parent.parent
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "examples/**/*.md",
        "examples/**/*.yaml",
        "examples/**/*.py",
    )
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_curl_is_asked_for_what_that_of_an_older_system_lacks(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if "curl " in line:  # --json came with 7.82, --fail-with-body with 7.76
            assert "--json" not in line, line


def test_a_first_look_installs_nothing_that_only_developers_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", "up"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    extras = set(",".join(re.findall(r"--editable '\.\[([a-z,]*)\]'", commands)).split(","))
    assert extras == {"instance", "examples"}
    wanted = " ".join(w for extra in extras for w in project["optional-dependencies"][extra])
    assert not re.search("mypy|ruff|pytest|selenium|schemathesis|hypothesis|litserve", wanted)
    assert "--quiet" not in commands, "who waits sees why"


@pytest.mark.parametrize(("tool", "index"), [("exit 1", True), ("echo 'GPU 0: one'", False)])
def test_torch_for_cpus_is_installed_where_no_gpu_is(
    tmp_path: Path, tool: str, index: bool
) -> None:
    for name, script in (("nvidia-smi", tool), ("uname", "echo Linux")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", "up"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    ).stdout  # fmt: skip
    assert ("whl/cpu" in commands) is index


def test_the_model_of_ones_own_in_the_readme_is_one_that_can_be_served(tmp_path: Path) -> None:
    late_or_skip("sklearn")
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n# wine\.py\n(.*?)```", text, re.DOTALL)
    asked = re.search(r'"features": (\[[^]]*\])', text)
    said = re.search(r'\{"kind":"(\w+)"\}', text)
    assert code
    assert asked
    assert said
    names: dict[str, type] = {}
    exec(code[1], names)
    wine = names["Wine"]()
    wine.setup("cpu")
    features = wine.decode_request({"features": eval(asked[1])})
    assert wine.predict(features) == {"kind": said[1]}

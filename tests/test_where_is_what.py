"""docs/where-is-what.md answers with places that exist, each once, and the map is of this house."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_question_has_one_place_that_exists() -> None:
    text = (ROOT / "docs" / "where-is-what.md").read_text()
    rows = re.findall(r"^\| (.+\?) \| `(.+?)` \|$", text, re.M)
    assert len(rows) >= 30
    assert len({place for _, place in rows}) == len(rows)
    missing = [place for _, place in rows if not (ROOT / place).is_file()]
    assert not missing


@pytest.mark.parametrize("room", ["core", "dataplane", "controlplane"])
def test_the_map_names_every_module_of_a_plane_and_fits_one_screen(room: str) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = text.partition("```\n")[2].partition("```")[0]
    modules = {path.stem for path in (ROOT / "gateway" / room).glob("[a-z]*.py")}
    assert modules <= set(re.findall(r"\w+", drawn))
    assert len(drawn.splitlines()) <= 60

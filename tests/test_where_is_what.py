"""docs/where-is-what.md answers with places that exist, each once."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_question_has_one_place_that_exists() -> None:
    text = (ROOT / "docs" / "where-is-what.md").read_text()
    rows = re.findall(r"^\| (.+\?) \| `(.+?)` \|$", text, re.M)
    assert len(rows) >= 30
    assert len({place for _, place in rows}) == len(rows)
    missing = [place for _, place in rows if not (ROOT / place).is_file()]
    assert not missing

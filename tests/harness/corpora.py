"""Which rows do the shared request corpora hold, and which exceptions have been reviewed?

The corpora lie in the folder HEADGATE_CORPORA, else in `../shared/corpora` beside the
repository. A test that needs one is skipped with a clear word where there is none.
"""

import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = tomllib.loads((ROOT / "tests/requirements/allowed.toml").read_text())


def folder() -> Path | None:
    """Where the corpora are, or None."""
    named = os.environ.get("HEADGATE_CORPORA")
    for path in (Path(named) if named else None, ROOT.parent / "shared" / "corpora"):
        if path is not None and path.is_dir():
            return path
    return None


def rows(*names: str) -> list[dict[str, Any]]:
    """All rows of these files; skips the test where a file is missing."""
    found: list[dict[str, Any]] = []
    for name in names:
        path = (folder() or Path("/nonexistent")) / f"{name}.jsonl"
        if not path.is_file():
            pytest.skip(f"corpus {name}.jsonl not found: set HEADGATE_CORPORA to its folder")
        with path.open() as lines:
            found += [json.loads(line) for line in lines]
    return found


def raw(row: dict[str, Any], key: str = "raw") -> bytes:
    """The bytes of a row: one code point is one byte."""
    return row[key].encode("latin-1")


def unexplained(requirement: str, faults: Iterable[tuple[str, str]]) -> list[str]:
    """The faults (row id, what was seen) that no reviewed exception of `requirement` names."""
    allowed = ALLOWED.get(requirement, {})
    return [f"{row}: {seen}" for row, seen in faults if row not in allowed]

"""Figures that are kept from run to run: `--save FILE`, written after each section.

Refuses what another version of the benchmark saved, whose figures have other names.
"""

import json
import os
from pathlib import Path
from typing import Any

SHAPE = 2  # 1 had one load, and no number
Results = dict[str, Any]


class Unusable(Exception):
    """The file cannot be added to; the text says why and what to do."""


def saved(file: Path | None) -> Results:
    """What the file holds; nothing where there is none."""
    if file is None or not file.exists():
        return {}
    try:
        results = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Unusable(f"{file} cannot be read ({error}); name another file") from None
    if not isinstance(results, dict) or results.get("shape") != SHAPE:
        raise Unusable(f"{file} is not of this version of the benchmark; name another file")
    return results


def save(file: Path, results: Results) -> None:
    """Replace the file; who is stopped meanwhile leaves the one from before."""
    new = file.with_name(f"{file.name}.new")
    new.write_text(json.dumps(results | {"shape": SHAPE}, indent=1))
    os.replace(new, file)

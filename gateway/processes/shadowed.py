"""Does a folder that Python looks for modules in hide one of Python's own, or of ours?

A folder of models stands before the standard library there, as that of a script does: with a
`json.py` beside the model nothing that imports `json` works, and what is said then names neither.
"""

import os
import sys
from pathlib import Path

FOUND_FIRST = {*sys.builtin_module_names, "__future__", "__main__"}
# What is installed stands behind folders of models, and a checkout before them.
_IS_INSTALLED = Path(__file__).parents[2].name in ("site-packages", "dist-packages")
OURS = frozenset({"gateway", "instance"} if _IS_INSTALLED else ())


def shadowed(folder: str | Path, ours: frozenset[str] = OURS) -> str | None:
    """All in `folder` that stands in the place of a module of Python's own, or of `ours`, in words
    with what to do; None where nothing does."""
    try:
        found = sorted(Path(folder).absolute().iterdir())
    except OSError:
        return None
    hidden = []
    for path in found:
        is_module = path.suffix == ".py" or os.path.isfile(path / "__init__.py")
        name = path.stem if path.suffix == ".py" else path.name
        if not is_module or name in FOUND_FIRST:
            continue
        if name in sys.stdlib_module_names or name in ours:
            whose = "Headgate" if name in ours else "Python"
            hidden.append(f"{path} stands in the place of {whose}'s own {name}: rename it")
    return "; ".join(hidden) or None

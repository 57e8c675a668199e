"""Does a folder that Python looks for modules in hide one of Python's own?

A folder of models stands before the standard library there, as that of a script does: with a
`json.py` beside the model nothing that imports `json` works, and what is said then names neither.
"""

import sys
from pathlib import Path

FOUND_FIRST = {*sys.builtin_module_names, "__future__", "__main__"}


def shadowed(folder: str | Path) -> str | None:
    """What in `folder` stands in the place of a module of Python's own, in words with what to do;
    None where nothing does."""
    try:
        found = sorted(Path(folder).iterdir())
    except OSError:
        return None
    for path in found:
        is_module = path.suffix == ".py" or (path / "__init__.py").is_file()
        name = path.stem if path.suffix == ".py" else path.name
        if is_module and name in sys.stdlib_module_names and name not in FOUND_FIRST:
            return f"{path} stands in the place of Python's own {name}: rename it"
    return None

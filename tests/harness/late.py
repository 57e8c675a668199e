"""What does a file of tests load before its first test runs?

Each of pytest's processes loads every file, and runs the tests of a third of them. What takes
seconds to load, as torch, scikit-learn and openai do, is loaded by those that use it.
"""

import importlib
from importlib.util import find_spec
from typing import Any

import pytest


class Late:
    """The module `name`, loaded when something in it is first asked for."""

    def __init__(self, name: str) -> None:
        self._late = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks at all that a file has for marks of its own
            raise AttributeError(name)
        return getattr(importlib.import_module(self._late), name)


def late_or_skip(name: str) -> Late:
    """The module `name`; the file that asks for it is skipped where that is not installed."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return Late(name)

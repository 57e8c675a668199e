"""Tests look through public seams only: what they need to see has a name that may be used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OF_PYTHON = {"_exit", "_replace"}  # of os and of named tuples: public in all but name


def private(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of each private attribute of anything but the object or class itself."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr in OF_PYTHON:
            continue
        if not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not own:
            yield node.lineno, node.attr


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: p.name)
def test_no_test_reaches_into_what_it_tests(path: Path) -> None:
    assert list(private(ast.parse(path.read_bytes()))) == []


def test_what_is_looked_for_is_found() -> None:
    source = "self._a; gateway._b; it.view._c(); os._exit(1); x.__class__; super()._d()"
    assert [name for _, name in private(ast.parse(source))] == ["_b", "_c", "_d"]

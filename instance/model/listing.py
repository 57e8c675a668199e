"""The process that looks what a file or a module has to serve, and at which path.

Started as `python -m instance.model.listing` with a `ListRequest`; the answer goes to a file, for
what user code prints is its own. Every class with `setup` and `predict` and every function of
`@endpoint` that is defined there counts, or all that the server of a file with a LitServer has.
"""

import ast
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from instance.api import Endpoint
from instance.model.describe import path_of
from instance.model.loader import load, module_of
from instance.model.making import LoadError, told
from instance.model.server_file import FileError, run_file
from instance.specs import spec_of
from instance.wire.messages import Listed, ListRequest, Offer


def offers(model: str) -> Listed:
    """What is to be had of `model` (`file.py`, `package.module`, or either with `:Name`)."""
    where, colon, name = model.partition(":")
    if not colon and where.endswith(".py") and runs_server(Path(where)):
        paths = [_path(api) for api in run_file(where, ()).apis]
        return {"failed": "", "offers": [{"name": "", "path": path} for path in paths]}
    if colon:
        return {"failed": "", "offers": [{"name": name, "path": _path(load(model))}]}
    found = list(_defined(module_of(where), where))
    if not found:
        raise LoadError(
            f"{where} defines nothing to serve: a class with setup(device) and predict(x), or a"
            " function with @endpoint"
        )
    return {"failed": "", "offers": found}


def runs_server(path: Path) -> bool:
    """Whether the file makes a LitServer somewhere."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):  # told by whoever runs it
        return False
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        (isinstance(call, ast.Attribute) and call.attr == "LitServer")
        or (isinstance(call, ast.Name) and call.id == "LitServer")
        for call in calls
    )


def _defined(module: ModuleType, where: str) -> Iterator[Offer]:
    for name, value in list(vars(module).items()):
        if name.startswith("_"):
            continue
        is_endpoint = isinstance(value, Endpoint) and value.function.__module__ == module.__name__
        if is_endpoint or _is_model(value, module):
            yield {"name": name, "path": _path(value if is_endpoint else _made(value, where))}


def _is_model(value: Any, module: ModuleType) -> bool:
    return (
        inspect.isclass(value)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and all(callable(getattr(value, hook, None)) for hook in ("setup", "predict"))
    )


def _made(found: type, where: str) -> Any:
    try:
        return found()
    except BaseException as error:
        raise LoadError(f"{where}:{found.__name__}() failed: {told(error)}") from None


def _path(api: Any) -> str:
    return path_of(api, spec_of(api))


def main() -> None:
    """Answers the one question in the first argument."""
    asked: ListRequest = json.loads(sys.argv[1])
    try:
        answer = offers(asked["model"])
    except (LoadError, FileError, ValueError) as error:
        answer = {"failed": str(error), "offers": []}
    with open(asked["answer"], "w") as file:
        json.dump(answer, file)
    sys.stdout.flush()
    os._exit(0)  # whatever the file has begun: nobody waits for it


if __name__ == "__main__":
    main()

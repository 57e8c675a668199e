"""Which object does MODEL name, and can it be served?

Runs in the worker's process only. Every fault is a `LoadError` of one line; the traceback of
a fault in the user's own code goes to the log, once.
"""

import difflib
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from instance.api import Endpoint
from instance.model.making import LoadError, checked, told
from instance.model.server_file import FileError, api_of, named
from instance.settings import is_server_file

log = logging.getLogger("instance")


def load(
    model: str, arguments: Sequence[str] = (), index: int = 0, args: Mapping[str, Any] = {}
) -> Any:
    """The object that `model` (`package.module:Name` or `path/to/file.py:Name`) names, made with
    `args` if it is a class, wrapped if it is a function. Of a file that runs a LitServer with
    `arguments`: its API of that index."""
    if is_server_file(model):
        if args:
            raise LoadError(f"{model} makes its own objects; args are for one class (file.py:Name)")
        try:
            return _served(api_of(model, arguments, index), model)
        except FileError as error:
            raise LoadError(str(error)) from None
    where, colon, name = model.rpartition(":")
    if not colon:
        where, name = model, ""
    module = module_of(where)
    found = getattr(module, name, None) if name else None
    if found is None:
        raise LoadError(_missing(module, where, name))
    for hook in ("setup", "predict"):
        if inspect.isclass(found) and hook in getattr(found, "__abstractmethods__", ()):
            raise LoadError(_lacks(model, hook))
    if args and not inspect.isclass(found):
        raise LoadError(f"{model} is no class: there is nothing to give args to")
    api = _made(found, model, args)
    if type(api).__name__ == "LitServer":
        raise LoadError(f"{model} is a LitServer; name the LitAPI that it was given, or the file")
    return _served(api, model)


def module_of(where: str) -> ModuleType:
    """The module that `where` (`package.module` or `path/to/file.py`) is, run; LoadError says why
    it cannot be."""
    return _file(where) if where.endswith(".py") or "/" in where else _module(where)


def _served(api: Any, model: str) -> Any:
    """`api`, if it has what a model needs."""
    for hook in ("setup", "predict"):
        if not callable(getattr(api, hook, None)) or _is_litserves_own(api, hook):
            raise LoadError(_lacks(model, hook))
    return api


def _lacks(model: str, hook: str) -> str:
    return f"{model} has no {hook}(); a model needs setup(device) and predict(x)"


def _module(where: str) -> ModuleType:
    if not where or where.startswith("."):
        raise LoadError("MODEL must be package.module:Name or path/to/file.py:Name")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or where
        if where == missing or where.startswith(missing + "."):
            raise LoadError(f"no module named {missing!r} can be found from here") from None
        log.exception("importing %s failed", where)
        raise LoadError(f"{where} imports {missing!r}, which is not installed") from None
    except BaseException as error:
        log.exception("importing %s failed", where)
        raise LoadError(f"importing {where} failed: {told(error)}") from None


def _file(where: str) -> ModuleType:
    path = Path(where)
    if not os.path.isfile(path):
        raise LoadError(f"no file {where!r} can be read")
    # As `python file.py` would: what lies beside the file can be imported from it.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{where!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        log.exception("running %s failed", where)
        raise LoadError(f"{where} imports {error.name!r}, which is not installed") from None
    except BaseException as error:
        log.exception("running %s failed", where)
        raise LoadError(f"running {where} failed: {told(error)}") from None
    return module


def _missing(module: ModuleType, where: str, name: str) -> str:
    if not name:
        return f"MODEL must name what to serve: {named(module, where)}"
    close = difflib.get_close_matches(name, vars(module), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{where} has no {name!r}{hint}"


def _made(found: Any, model: str, args: Mapping[str, Any]) -> Any:
    if inspect.isclass(found):
        given = checked(found, args, model)
        try:
            return found(**given)
        except BaseException as error:
            log.exception("making %s failed", model)
            raise LoadError(f"{model}() failed: {told(error)}") from None
    if inspect.isfunction(found):
        return Endpoint(found, {})
    return found


def _is_litserves_own(api: Any, hook: str) -> bool:
    """Whether `hook` is LitServe's base class's, which only raises."""
    return getattr(getattr(api, hook), "__qualname__", "") == f"LitAPI.{hook}"

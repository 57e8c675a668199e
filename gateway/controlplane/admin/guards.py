"""Under which circumstances does a gateway refuse to start at all?

Each is a way to run that takes away a guarantee without anybody noticing: a library too old,
a parser that is not the one that was tested, checks switched off, debugging open to the
world. Faults of the file are `configuration`'s, those of the state the store's.

The process that asks has no use for aiohttp, which takes a third of its start to load: it looks at
what is installed.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from gateway.controlplane.configuration.settings import Settings

AIOHTTP_FLOOR = (3, 14)


def start_refusals(
    settings: Settings,
    *,
    optimize: int = sys.flags.optimize,
    debug: bool | None = None,
    aiohttp_version: str | None = None,
    compiled_parser: bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Why a gateway with `settings` must not start, each as one line; empty when it may."""
    if compiled_parser is None:
        compiled_parser = has_compiled_parser(environment)
    if debug is None:
        debug = sys.flags.dev_mode or bool(environment.get("PYTHONASYNCIODEBUG"))
    version = aiohttp_version or installed_version("aiohttp")
    return list(_refusals(settings, optimize, debug, version, compiled_parser))


def has_compiled_parser(environment: Mapping[str, str]) -> bool:
    """Whether aiohttp will parse with its compiled parser in such an environment."""
    spec = find_spec("aiohttp")
    if environment.get("AIOHTTP_NO_EXTENSIONS") or spec is None:
        return False
    return any(
        (Path(place) / f"_http_parser{suffix}").exists()
        for place in spec.submodule_search_locations or ()
        for suffix in EXTENSION_SUFFIXES
    )


def _refusals(
    settings: Settings, optimize: int, debug: bool, version: str, compiled_parser: bool
) -> Iterator[str]:
    if optimize:
        yield "python -O switches off checks that the gateway relies on; start it without"
    if tuple(int(part) for part in version.split(".")[:2]) < AIOHTTP_FLOOR:
        floor = ".".join(map(str, AIOHTTP_FLOOR))
        yield f"aiohttp {version} is too old; install {floor} or newer"
    if not compiled_parser:
        yield "aiohttp has no compiled parser here; unset AIOHTTP_NO_EXTENSIONS or reinstall it"
    if debug and not settings.is_local:
        yield "debugging (-X dev, PYTHONASYNCIODEBUG) is for loopback listeners only"

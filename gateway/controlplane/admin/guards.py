"""Under which circumstances does a gateway refuse to start at all?

Each is a way to run that takes away a guarantee without anybody noticing: a library too old,
a parser that is not the one that was tested, checks switched off, debugging open to the
world. Faults of the file are `configuration`'s, those of the state the store's.
"""

import os
import sys
from collections.abc import Iterator, Mapping

import aiohttp
from aiohttp import http_parser

from gateway.controlplane.configuration.settings import Settings

AIOHTTP_FLOOR = (3, 14)


def start_refusals(
    settings: Settings,
    *,
    optimize: int = sys.flags.optimize,
    debug: bool | None = None,
    aiohttp_version: str = aiohttp.__version__,
    compiled_parser: bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Why a gateway with `settings` must not start, each as one line; empty when it may."""
    if compiled_parser is None:
        compiled_parser = hasattr(http_parser, "HttpRequestParserC")
    if debug is None:
        debug = sys.flags.dev_mode or bool(environment.get("PYTHONASYNCIODEBUG"))
    return list(_refusals(settings, optimize, debug, aiohttp_version, compiled_parser))


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

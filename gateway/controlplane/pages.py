"""Which pages does the admin listener show?

A fixed table of files: what is not in it does not exist, so no path can lead anywhere else.
The pages are public, for they hold no data: what they show they ask the admin API for, with
the token their reader gives them. What the pages look like is the dashboard's business.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Final

from aiohttp import web

from gateway.controlplane.openapi import openapi_document

Page = tuple[str, Callable[[], bytes]]

_DASHBOARD = "gateway.controlplane.dashboard"
_HTML = "text/html; charset=utf-8"
_REFERENCE: Final = {
    "/docs": ("index.html", _HTML),
    "/docs/reference.js": ("reference.js", "text/javascript; charset=utf-8"),
    "/docs/reference.css": ("reference.css", "text/css; charset=utf-8"),
}


def _file(name: str) -> Callable[[], bytes]:
    return (files(__package__) / "reference" / name).read_bytes


def _dashboard() -> Mapping[str, Page]:
    """The dashboard's own table of files; none where it was left out of the installation."""
    if find_spec(_DASHBOARD) is None:
        return {}
    found: Mapping[str, Page] = import_module(_DASHBOARD).FILES
    return found


PAGES: Final[Mapping[str, Page]] = {
    **_dashboard(),
    **{path: (kind, _file(name)) for path, (name, kind) in _REFERENCE.items()},
    "/openapi.json": ("application/json", openapi_document),
}
"""Path → content type, and what gives the bytes."""


def add_pages(application: web.Application) -> None:
    """Adds every page to the routes of `application`; each is read when first asked for."""
    for path, (kind, load) in PAGES.items():
        application.router.add_get(path, partial(_show, kind, cache(load)))


async def _show(kind: str, load: Callable[[], bytes], request: web.Request) -> web.Response:
    return web.Response(body=load(), headers={"Content-Type": kind})

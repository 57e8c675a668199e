"""Which pages does the admin listener show?

A fixed table of files: what is not in it does not exist, so no path can lead anywhere else.
The pages are public, for they hold no data: what they show they ask the admin API for, with
the token their reader gives them. What the pages look like is the dashboard's business.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Final

from aiohttp import web

from gateway.controlplane.admin.dashboard import FILES
from gateway.controlplane.admin.openapi import openapi_document

Page = tuple[str, Callable[[], bytes]]

_HTML = "text/html; charset=utf-8"
_REFERENCE: Final = {
    "/docs": ("index.html", _HTML),
    "/docs/reference.js": ("reference.js", "text/javascript; charset=utf-8"),
    "/docs/reference.css": ("reference.css", "text/css; charset=utf-8"),
}


def _file(name: str) -> Callable[[], bytes]:
    return (files(__package__) / "reference" / name).read_bytes


PAGES: Final[Mapping[str, Page]] = {
    **FILES,
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

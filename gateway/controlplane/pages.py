"""Which pages does the admin listener show?

A fixed table of files, read once at start: what is not in it does not exist, so no path can
lead anywhere else. The pages are public, for they hold no data: what they show they ask the
admin API for, with the token their reader gives them.
"""

from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Final

from aiohttp import web

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
_PACKAGE = "gateway.controlplane"


@dataclass(frozen=True, slots=True)
class Page:
    """The bytes of one file and their media type."""

    body: bytes
    content_type: str


def _read() -> dict[str, Page]:
    """Path → page: the dashboard at the root, its other files by name, the API's page."""
    pages = {}
    for folder, root in (("dashboard", "/"), ("reference", "/docs")):
        directory = files(_PACKAGE).joinpath(folder)
        if not directory.is_dir():
            continue
        for file in directory.iterdir():
            kind = _TYPES.get(file.name.rpartition(".")[2])
            if kind is None or not file.is_file():
                continue
            path = root if file.name == "index.html" else f"{root.rstrip('/')}/{file.name}"
            pages[path] = Page(file.read_bytes(), kind)
    return pages


PAGES: Final = _read()


def add_pages(application: web.Application) -> None:
    """Adds every page to the routes of `application`."""
    for path, page in PAGES.items():
        application.router.add_get(path, partial(_show, page))


async def _show(page: Page, request: web.Request) -> web.Response:
    return web.Response(body=page.body, headers={"Content-Type": page.content_type})

"""Which files make the dashboard, and under which paths are they served?

All that are in its folder when this is loaded: a path that is not in the table does not exist, so
there is nothing to traverse. The pages use the public admin API and load nothing from elsewhere; no
style or script is inline, so that `default-src 'self'` holds.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOLDER = files(__name__) / "static"

FILES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "/" if each.name == "index.html" else f"/dashboard/{each.name}": (
        _TYPES[each.name[each.name.rindex(".") :]],
        each.read_bytes,
    )
    for each in _FOLDER.iterdir()
    if each.name.endswith(tuple(_TYPES))
}
"""Path → content type and what gives the bytes."""

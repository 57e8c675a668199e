"""Which files make the dashboard, and under which paths are they served?

A fixed table: a path that is not in it does not exist, so there is nothing to traverse. The
pages use the public admin API and load nothing from elsewhere; no style or script is inline,
so that `default-src 'self'` holds.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NAMES = (
    "index.html",
    "base.css",
    "parts.css",
    "mirror.css",
    "processes.css",
    "icon.svg",
    "main.js",
    "api.js",
    "dom.js",
    "model.js",
    "summary.js",
    "alerts.js",
    "routes.js",
    "finder.js",
    "split_editor.js",
    "rollout.js",
    "mirror.js",
    "charts.js",
    "line_chart.js",
    "gateways.js",
    "instances.js",
    "processes.js",
    "keys.js",
    "difference.js",
    "history.js",
    "events.js",
    "dialogs.js",
    "permission.js",
)

Loader = Callable[[], bytes]


def _loader(name: str) -> Loader:
    return (files(__name__) / "static" / name).read_bytes


def _entry(name: str) -> tuple[str, Loader]:
    return _TYPES[name[name.rindex(".") :]], _loader(name)


FILES: Mapping[str, tuple[str, Loader]] = {
    "/" if name == "index.html" else f"/dashboard/{name}": _entry(name) for name in _NAMES
}
"""Path → content type and what gives the bytes."""

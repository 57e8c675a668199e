"""The page at `/-/docs`: what clients can ask of this gateway, for people.

One page that holds its style and its script, for workers answer from memory and know no
files; it loads `/-/openapi.json` from beside itself and nothing from anywhere else, and its
own policy lets the browser run exactly these two and no other.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files


@cache
def route_docs_page() -> str:
    """The whole page."""
    folder = files(__name__)
    page, style, script = (
        (folder / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none';"
        f" style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    )
    return page.replace("{policy}", policy).replace("{style}", style).replace("{script}", script)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

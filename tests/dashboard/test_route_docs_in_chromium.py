"""The page at /-/docs in a real browser: read, and tried out."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from gateway.controlplane.docs.openapi_merge import merge
from gateway.controlplane.docs.route_docs import route_docs_page
from gateway.core.table import Table
from tests.dashboard.conftest import Page

pytestmark = pytest.mark.browser

PIXELS = {
    "type": "object",
    "required": ["pixels"],
    "properties": {
        "pixels": {"type": "array", "minItems": 2, "items": {"type": "integer", "maximum": 16}},
        "<img src=x onerror=window.evil=1>": {"$ref": "#/components/schemas/Digit"},
    },
}
SAYS = {
    "openapi": "3.1.0",
    "info": {"title": "m", "version": "1"},
    "paths": {
        "/predict": {
            "post": {
                "summary": "Ask <b>Linear</b>",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Digit"}}
                    },
                },
                "responses": {"200": {"description": "The digit"}},
            }
        }
    },
    "components": {"schemas": {"Digit": PIXELS}},
}
TABLE = Table.from_document(
    {
        "backends": {"linear": {}, "other": {}},
        "routes": {
            "digits": {"match": "/digits", "rewrite": "/predict", "split": {"linear": 1}},
            "silent": {"match": "/silent", "split": {"other": 1}},
        },
    },
    1,
)


class Handler(BaseHTTPRequestHandler):
    pages = {
        "/-/openapi.json": ("application/json", json.dumps(merge(TABLE, {"linear": SAYS}))),
        "/-/docs": ("text/html; charset=utf-8", route_docs_page()),
    }

    def do_GET(self) -> None:
        kind, body = self.pages.get(self.path, ("text/plain", ""))
        self.answer(kind, body)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer("application/json", json.dumps({"digit": 7, "asked": json.loads(asked)}))

    def answer(self, kind: str, body: str) -> None:
        content = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("X-Headgate-Backend", "linear")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """The browser's console is what is looked at."""


def test_it_is_read_and_tried_out(page: Page) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        page.open(f"http://127.0.0.1:{server.server_port}/-/docs")
        page.until(lambda: "/digits" in page.text("#routes"))
        page.shows("#routes", "Ask <b>Linear</b>")
        page.shows("#routes", "None of its instances describes it.")
        page.press("summary")
        field = page.find("textarea")
        page.until(field.is_displayed)
        assert json.loads(field.get_property("value"))["pixels"] == [0, 0]
        page.press("button")
        page.until(lambda: "200 by linear" in page.text(".send span"))
        page.shows("details > div:last-child pre", '"digit": 7')
        assert page.script("return window.evil") is None
        assert [text for text in page.complaints() if "favicon" not in text] == []
        page.resize(360, 800)
        page.until(page.fits, "nothing is to the right of the screen")
    finally:
        server.shutdown()
        server.server_close()

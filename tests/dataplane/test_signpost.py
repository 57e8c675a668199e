"""What a browser sees that comes to a gateway's own address, where no route is."""

import base64
import hashlib
import json
import re
from typing import Any

BROWSER = b"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
GET = b"GET %b HTTP/1.1\r\nHost: gw.test\r\n%b\r\n"
LISTENERS = (("0.0.0.0", 8080), ("0.0.0.0", 8081))


def serve(gateway: Any, instance: Any, match: str) -> None:
    routes = {"r": {"match": match, "split": {"b": 1}}}
    gateway.table({"backends": {"b": {"instances": [instance.url]}}, "routes": routes})


async def test_a_browser_at_the_root_is_told_where_there_is_something_to_see(rig, stub):
    gateway = await rig(listeners=LISTENERS)
    serve(gateway, await stub(), "/x")
    for path in (b"/", b"/-/"):
        answer = await gateway.ask(GET % (path, BROWSER))
        assert (answer.status, answer.error) == (404, "no_route")
        assert answer.get("content-type") == "text/html; charset=utf-8"
        (style,) = re.findall(rb"<style>(.*?)</style>", answer.body, re.S)
        only = base64.b64encode(hashlib.sha256(style).digest()).decode()
        policy = answer.get("content-security-policy")
        assert policy == f"default-src 'none'; style-src 'sha256-{only}'"
        assert b'href="/-/docs"' in answer.body
        assert b'href="http://127.0.0.1:8081/"' in answer.body


async def test_the_dashboard_is_named_by_the_scheme_at_which_it_is_reached(rig, stub):
    """A browser that is sent to a TLS port by http:// sees an error and no dashboard."""
    gateway = await rig(listeners=(("0.0.0.0", 8080), ("::1", 8081)), admin_scheme="https")
    serve(gateway, await stub(), "/x")
    answer = await gateway.ask(GET % (b"/", BROWSER))
    assert b'href="https://[::1]:8081/"' in answer.body


async def test_nobody_else_is_and_a_route_goes_first(rig, stub):
    gateway = await rig(listeners=LISTENERS)
    serve(gateway, await stub(), "/x")
    for path, lines in ((b"/", b""), (b"/", b"Accept: */*\r\n"), (b"/y", BROWSER)):
        answer = await gateway.ask(GET % (path, lines))
        assert answer.get("content-type") == "application/problem+json"
        assert json.loads(answer.body)["code"] == "no_route"
    serve(gateway, await stub(), "/")
    assert (await gateway.ask(GET % (b"/", BROWSER))).status == 200

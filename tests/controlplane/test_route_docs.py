"""The page at /-/docs: self-contained, and no more than that may run."""

import base64
import hashlib
import re

from gateway.controlplane.docs.route_docs import route_docs_page


def test_r60_the_page_lets_the_browser_run_exactly_itself() -> None:
    page = route_docs_page()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    for name in ("script", "style"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "innerHTML" not in page

"""Several gateways on the dashboard of one of them."""

from typing import Any

import pytest

from tests.dashboard.conftest import Page
from tests.dashboard.demo import Demo

pytestmark = pytest.mark.browser


class Several(Demo):
    def status(self) -> dict[str, Any]:
        one = {"live": True, "revision": 4, "workers": 2, "behind": 0, "self": False}
        names = {f"gateway-{letter}.example.com": f"10.0.0.{n}" for n, letter in enumerate("abc")}
        gateways = {name: {**one, "admin": f"https://{host}:8081"} for name, host in names.items()}
        gateways["gateway-a.example.com"]["self"] = True
        gateways["gateway-c.example.com"] |= {"live": False, "revision": 3}
        return {**super().status(), "gateways": gateways, "limits": {"divided_by": 2}}


@pytest.mark.parametrize("width", [320, 390, 768, 1380])
def test_gateways_are_named_with_what_each_decides_by_at_any_width(page: Page, width: int) -> None:
    with Several() as demo:
        page.resize(width, 900)
        page.open(demo.url)
        page.until(lambda: "live, this one" in page.text("#gateways-body"))
        page.until(lambda: "lost" in page.text("#gateways-body"))
        page.shows("#gateways-note", "limits of keys and routes are divided by 2")
        page.shows("#keys-note", "used at this gateway; the others count for themselves")
        assert "https://10.0.0.2:8081" in page.text("#gateways-body")
        page.until(page.fits, "nothing is to the right of the screen")
        assert page.complaints() == []

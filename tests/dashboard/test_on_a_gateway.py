"""The dashboard on a real gateway, under load: what it shows is what happens."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.dashboard.conftest import Page
from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Reply, get_each, open_loop
from tests.harness.origin_process import OriginProcess

pytestmark = pytest.mark.browser

RATE = 50
SLIDER = '[data-backend="cnn"] input[type="range"]'


@pytest.fixture
def stubs() -> Iterator[tuple[OriginProcess, OriginProcess]]:
    linear, cnn = OriginProcess(name="linear"), OriginProcess(name="cnn")
    linear.start()
    cnn.start()
    yield linear, cnn
    linear.kill()
    cnn.kill()


def split(replies: list[Reply], revision: int, since: float, until: float) -> Counter[str]:
    """To whom the requests went that were sent and answered in that time, and decided by that
    revision."""
    return Counter(
        reply.header("x-headgate-backend")
        for reply in replies
        if since <= reply.intended
        and reply.done < until
        and reply.header("x-headgate-revision") == str(revision)
    )


def drag_to_half(page: Page) -> None:
    """Drags the weight of `cnn` from 10 to about 50 and applies it."""
    from selenium.webdriver.common.action_chains import ActionChains

    def dragged() -> bool:  # once more where the page moved it meanwhile
        slider = page.find(SLIDER)
        width = slider.size["width"] - 12  # of the way that the middle of the thumb can go
        start = -width / 2 + 0.1 * width
        actions = ActionChains(page.driver)
        actions.move_to_element_with_offset(slider, round(start), 0).click_and_hold()
        actions.move_by_offset(round(0.2 * width), 0).move_by_offset(round(0.2 * width), 0)
        actions.release().perform()
        return page.find(SLIDER).get_property("value") != "10"

    page.until(lambda: page.text("#link-text") == "live")
    page.until(dragged, "the slider moves")
    page.until(lambda: "Dry run: 2 weights would change" in page.text(".word"))
    page.find('.edit input[type="text"]').send_keys("half each")
    page.press('[data-route="all"] button.main')
    page.until(lambda: "revision 2 " in page.text("#facts"))


@pytest.mark.paced
async def test_a_weight_is_dragged_under_load_and_the_split_moves(page: Page, stubs) -> None:
    linear, cnn = stubs
    document = {
        "backends": {"linear": backend(linear), "cnn": backend(cnn)},
        "routes": {"all": {"match": "/", "split": {"linear": 90, "cnn": 10}}},
    }
    async with running_gateway(document) as gateway:
        enough = asyncio.Event()
        load = asyncio.create_task(open_loop(gateway.url, RATE, 240, get_each, enough=enough))
        await asyncio.to_thread(page.open, gateway.admin_url)
        await asked_since(gateway, RATE)
        await asyncio.to_thread(drag_to_half, page)
        weights = (await gateway.status())["routes"]["all"]["weights"]
        assert abs(weights["cnn"] - 50) <= 8, weights
        assert sum(weights.values()) == 100

        await asked_since(gateway, RATE)
        died = time.monotonic()
        cnn.kill()
        await asyncio.to_thread(
            page.until, lambda: page.text(f'[data-instance="{cnn.address}"] .pill') == "down"
        )
        await asyncio.to_thread(
            page.until, lambda: "100.0 %" in page.text('[data-backend="linear"]')
        )
        killed = time.monotonic()
        await asked_since(gateway, RATE)
        missed = time.monotonic()
        await asyncio.to_thread(page.press, '[aria-label="Restore revision 1"]')
        await asyncio.to_thread(page.until, lambda: "→ 10" in page.text("#confirm-diff"))
        await asyncio.to_thread(page.press, "#confirm-apply")
        await asyncio.to_thread(page.until, lambda: "revision 3 " in page.text("#facts"))
        restored = await gateway.status()
        assert restored["routes"]["all"]["weights"] == {"linear": 90, "cnn": 10}
        assert page.complaints() == []
        enough.set()
        replies = await load
    before = split(replies, 1, 0, died)
    assert before.total() >= RATE / 2
    assert before["cnn"] <= 0.2 * before.total()
    edited = split(replies, 2, 0, died)
    assert edited.total() >= RATE / 2
    assert abs(edited["cnn"] / edited.total() - weights["cnn"] / 100) < 0.15
    without = split(replies, 2, killed, missed)
    assert without.total() >= RATE / 2
    assert without["cnn"] == 0


async def test_a_viewers_token_shows_a_real_gateway_and_edits_nothing(page: Page, stubs) -> None:
    linear, _ = stubs
    document = {
        "backends": {"linear": backend(linear)},
        "routes": {"all": {"match": "/", "split": {"linear": 1}}},
    }
    env = {"HEADGATE_TOKEN": "o" * 40, "HEADGATE_VIEWER_TOKEN": "v" * 40}

    def look() -> None:
        page.open(gateway.admin_url)
        field = page.find("#token")
        page.until(field.is_displayed)
        field.send_keys("v" * 40)
        page.press("#token-form button.main")
        page.until(lambda: page.text("#link-text") == "live")
        page.until(lambda: "may read everything" in page.text("#viewer"))
        page.until(lambda: page.text(f'[data-instance="{linear.address}"] .pill') == "up")

    async with running_gateway(document, up=False, env=env) as gateway:
        await asyncio.to_thread(look)
        code = "return [...document.querySelectorAll('[data-edits]')].map((each) => each.disabled)"
        disabled = page.script(code)
        assert disabled
        assert all(disabled)


async def asked_since(gateway: Gateway, count: int) -> None:
    """Returns when as many more requests have been counted."""
    began = (await gateway.metrics()).total("headgate_requests_total")

    async def enough() -> bool:
        return (await gateway.metrics()).total("headgate_requests_total") >= began + count

    await eventually(enough, what=f"{count} more requests", every_s=0.1)


async def test_r60_the_real_listener_sends_what_keeps_the_pages_safe() -> None:
    document = {"backends": {"b": {"instances": []}},
                "routes": {"all": {"match": "/", "split": {"b": 1}}}}  # fmt: skip
    async with running_gateway(document, up=False) as gateway:
        for path in ("/", "/dashboard/main.js", "/docs"):
            reply = await gateway.client.get(gateway.admin_url + path)
            assert reply.status == 200, path
            policy = reply.header("content-security-policy")
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert reply.header("x-content-type-options") == "nosniff"

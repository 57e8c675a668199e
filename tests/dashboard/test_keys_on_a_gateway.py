"""Keys on the dashboard of a real gateway: made, shown once, renewed, used, and taken back."""

import asyncio
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.dashboard.conftest import Page
from tests.harness.gateway import backend, eventually, one_backend, running_gateway
from tests.harness.origin_process import OriginProcess

pytestmark = pytest.mark.browser
ACME = '[data-key="acme"]'


@pytest.fixture
def origin() -> Iterator[OriginProcess]:
    process = OriginProcess(name="linear")
    process.start()
    yield process
    process.kill()


def make(page: Page, admin_url: str) -> str:
    """Makes a key for one route as a person would; its secret as it is shown."""
    from selenium.webdriver.common.keys import Keys

    page.open(admin_url)
    page.until(lambda: page.text("#link-text") == "live")
    page.until(lambda: "No keys" in page.text("#keys-body"))
    page.press("#key-new")
    page.until(lambda: "every route asks for one" in page.text("#key-dialog"))
    page.write(page.find("#key-name"), "acme")
    page.press('#key-routes input[value="all"]')
    page.write(page.find("#key-rate"), "wrong")
    page.press('#key-ask button[type="submit"]')
    page.until(lambda: "100/s or 30/m" in page.text("#key-fault"))
    assert page.text("#key-fault").count("100/s or 30/m") == 1, "said once"
    page.write(page.find("#key-rate"), "600/m")
    page.press('#key-ask button[type="submit"]')
    page.until(lambda: page.text("#key-secret").startswith("hg_"))
    page.find("#key-copy").send_keys(Keys.ESCAPE)
    assert page.text("#key-secret").startswith("hg_"), "it would be gone for good"
    return page.text("#key-secret")


def close(page: Page) -> None:
    page.press("#key-done")
    page.until(lambda: not page.script("return document.getElementById('key-dialog').open"))


def has_one_secret(row: str) -> bool:
    return "acme" in row and "secrets" not in row


def confirm(page: Page, action: str) -> None:
    page.press(f'[aria-label="{action} acme"]')
    page.until(lambda: page.text("#confirm-apply").lower() == action)
    page.press("#confirm-apply")


def is_told_what_going_back_opens(page: Page, revision: int, words: str) -> None:
    """Asks for it, and leaves it."""
    page.press(f'[aria-label="Restore revision {revision}"]')
    page.until(lambda: words in page.text("#confirm-diff"))
    page.press("#confirm-cancel")
    page.until(lambda: not page.script("return document.getElementById('confirm-dialog').open"))


async def test_a_key_is_made_shown_once_used_rotated_and_revoked(
    page: Page, origin: OriginProcess
) -> None:
    document = {
        "backends": {"linear": backend(origin)},
        "routes": {
            "all": {"match": "/", "split": {"linear": 1}, "access": "keys"},
            "open": {"match": "/open", "split": {"linear": 1}, "access": "open"},
        },
    }
    async with running_gateway(document) as gateway:

        async def status_of(key: str) -> int:
            reply = await gateway.client.get(gateway.url + "/", headers=[("X-API-Key", key)])
            return reply.status

        secret = await asyncio.to_thread(make, page, gateway.admin_url)
        assert await status_of(secret) == 200
        await asyncio.to_thread(close, page)
        markup = str(page.script("return document.documentElement.outerHTML"))
        assert secret not in markup
        await asyncio.to_thread(page.until, lambda: "600/m" in page.text(ACME))
        await asyncio.to_thread(page.until, lambda: "just now" in page.text(ACME))

        await asyncio.to_thread(confirm, page, "rotate")
        await asyncio.to_thread(page.until, lambda: page.text("#key-secret").startswith("hg_"))
        renewed = page.text("#key-secret")
        await asyncio.to_thread(close, page)
        assert [await status_of(each) for each in (secret, renewed)] == [200, 200]
        await asyncio.to_thread(page.until, lambda: "2 secrets" in page.text(ACME))
        await asyncio.to_thread(confirm, page, "retire")
        await asyncio.to_thread(page.until, lambda: has_one_secret(page.text(ACME)))
        assert [await status_of(each) for each in (secret, renewed)] == [401, 200]

        taken_back = "key 'acme' has a secret again that was taken back"
        await asyncio.to_thread(is_told_what_going_back_opens, page, 3, taken_back)

        async def told() -> bool:
            listed = (await gateway.client.get(gateway.admin_url + "/admin/v1/keys")).json()
            return bool(listed["used"]["acme"]["requests"] == 4)

        await eventually(told, what="four requests of the key", every_s=0.1)
        await asyncio.to_thread(confirm, page, "revoke")
        await asyncio.to_thread(page.until, lambda: "No keys" in page.text("#keys-body"))
        assert await status_of(renewed) == 401
        refused = [each for each in page.complaints() if "admin/v1/keys - Failed" not in each]
        assert refused == []


async def test_who_leaves_the_question_while_a_key_is_rotated_sees_its_secret_all_the_same(
    page: Page, origin: OriginProcess
) -> None:
    document = {
        "backends": {"linear": backend(origin)},
        "routes": {"all": {"match": "/", "split": {"linear": 1}, "access": "keys"}},
    }
    async with running_gateway(document) as gateway:
        first = await asyncio.to_thread(make, page, gateway.admin_url)
        await asyncio.to_thread(close, page)
        status = (await gateway.client.get(gateway.admin_url + "/admin/v1/status")).json()
        control = status["control"]["pid"]
        await asyncio.to_thread(page.press, f'{ACME} [aria-label="rotate acme"]')
        await asyncio.to_thread(page.until, lambda: page.seen("#confirm-dialog"))
        os.kill(control, signal.SIGSTOP)
        try:
            await asyncio.to_thread(page.press, "#confirm-apply")
            await asyncio.to_thread(page.press, "#confirm-cancel")
            await asyncio.to_thread(page.until, lambda: page.hidden("#confirm-dialog"))
        finally:
            os.kill(control, signal.SIGCONT)
        await asyncio.to_thread(page.until, lambda: page.text("#key-secret").startswith("hg_"))
        second = page.text("#key-secret")
        page.script("document.getElementById('key-dialog').close()")  # as two Escapes do
        await asyncio.to_thread(page.until, lambda: page.seen("#key-dialog"))
        assert page.text("#key-secret") == second
        await asyncio.to_thread(close, page)
        for key in (first, second):
            reply = await gateway.client.get(gateway.url + "/", headers=[("X-API-Key", key)])
            assert reply.status == 200


async def test_a_key_that_expires_says_so_though_nobody_edits_it(
    page: Page, origin: OriginProcess
) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        **one_backend(origin),
        "keys": {"acme": {"hashes": ["sha256:" + "0" * 64], "expires": soon}},
    }
    async with running_gateway(document) as gateway:
        await asyncio.to_thread(page.open, gateway.admin_url)
        await asyncio.to_thread(page.until, lambda: "never" in page.text(ACME))
        assert "expired" not in page.text(ACME)
        page.script("const now = Date.now; Date.now = () => now() + 3 * 3600e3")
        await asyncio.to_thread(page.until, lambda: "expired" in page.text(ACME))

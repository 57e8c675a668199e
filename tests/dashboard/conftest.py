"""A headless Chromium, and a played gateway for it to look at."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dashboard.demo import Demo

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--window-size=1380,1000",
)  # fmt: skip
WITHIN_S = 60.0  # on a busy machine; what is waited for is there as soon as it is drawn


class Page:
    """One browser window on a dashboard, driven as a person would."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        # What moves is drawn sixty times a second, which takes a processor that others need.
        wishes = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wishes})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def find(self, selector: str) -> Any:
        """The first element that `selector` names, once it is there."""
        return self.until(lambda: self.all(selector), selector)[0]

    def press(self, selector: str) -> None:
        """Clicks what `selector` names; once more where the page drew it anew meanwhile."""
        self.until(lambda: self._pressed(selector), selector)

    def _pressed(self, selector: str) -> bool:
        self.find(selector).click()
        return True

    def seen(self, selector: str) -> bool:
        """Whether what `selector` names is there and can be seen, in one look."""
        return self._visible(selector) is True

    def hidden(self, selector: str) -> bool:
        """Whether what `selector` names is there and cannot be seen, in one look."""
        return self._visible(selector) is False

    def _visible(self, selector: str) -> bool | None:
        code = "return document.querySelector(arguments[0])?.checkVisibility() ?? null"
        visible: bool | None = self.script(code, selector)
        return visible

    def enabled(self, selector: str) -> bool:
        """Whether what `selector` names can be used, in one look."""
        code = "const it = document.querySelector(arguments[0]); return !!it && !it.disabled"
        return bool(self.script(code, selector))

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def write(self, field: Any, text: str) -> None:
        """Types `text` in place of what `field` holds: a number selects itself on focus."""
        self.until(lambda: field.click() is None, "the field can be clicked")
        self.script("arguments[0].select()", field)
        field.send_keys(text)

    def text(self, selector: str) -> str:
        return str(self.script("return document.querySelector(arguments[0])?.innerText", selector))

    def shows(self, selector: str, words: str) -> None:
        """Returns once what `selector` finds first has these words: the page draws it anew each
        second, and there is a moment without it."""
        self.until(lambda: words in self.text(selector), f"{words!r} in {selector}")

    def fits(self) -> bool:
        """Whether nothing is to the right of the screen. A phone's window grows with what is there,
        so it is not `innerWidth` that says how wide the screen is."""
        root = "document.documentElement"
        return bool(self.script(f"return {root}.scrollWidth <= {root}.clientWidth"))

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, check: Callable[[], Any], what: str = "") -> Any:
        """The first true result of `check`; fails the test when there is none in time.

        An element that the page drew anew, moved or covered while `check` was at it is looked for
        again.
        """
        from selenium.common.exceptions import (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
        )

        def looked() -> Any:
            try:
                return check()
            except (
                ElementClickInterceptedException,
                ElementNotInteractableException,
                StaleElementReferenceException,
            ):
                return None

        end = time.monotonic() + WITHIN_S
        while not (result := looked()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {WITHIN_S} s: {what or check}")
            time.sleep(0.05)
        return result

    def complaints(self) -> list[str]:
        """What the browser's console holds against the page since it was last asked."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]


def chromium() -> tuple[str, str]:
    """The browser and its driver; skips the test where they are missing."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (chromium, chromium-driver)")
    return browser, driver


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    binary, driver_path = chromium()
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    chrome = Chrome(options=options, service=Service(driver_path))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    page = Page(driver)
    page.resize(1380, 1000)
    yield page
    page.open("about:blank")
    page.complaints()


@pytest.fixture
def demo() -> Iterator[Demo]:
    with Demo() as demo:
        yield demo

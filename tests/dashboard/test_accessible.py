"""Can everybody read the dashboard and reach all of it? Contrast as WCAG 2 measures it."""

from typing import Any

import pytest

from tests.dashboard.conftest import Page
from tests.dashboard.demo import Demo

pytestmark = pytest.mark.browser

# Every piece of text that can be seen, with the ratio of its colour to what is behind it.
CONTRASTS = """
const channels = (color) => {
  const found = (color.match(/[\\d.]+/g) || []).map(Number);
  return color.startsWith("color(") ? found.map((one, i) => (i < 3 ? 255 * one : one)) : found;
};
const over = ([r, g, b, a = 1], below) => [r, g, b].map((one, i) => one * a + below[i] * (1 - a));
const luminance = (rgb) => {
  const [r, g, b] = rgb.map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement)
    layers.unshift(channels(getComputedStyle(at).backgroundColor));
  return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const text = walk.currentNode.textContent.trim();
  const element = walk.currentNode.parentElement;
  const { width, height } = element.getBoundingClientRect();
  if (!text || width < 2 || height < 2 || !element.checkVisibility()) continue;
  if (element.closest(":disabled, .unseen, .skip, option")) continue;
  const style = getComputedStyle(element), ground = behind(element);
  const color = element.closest("svg") ? style.fill : style.color;
  const two = [luminance(over(channels(color), ground)), luminance(ground)];
  const [light, dark] = two.sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  found.push([(light + 0.05) / (dark + 0.05), large ? 3 : 4.5, text.slice(0, 40)]);
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(page: Page, demo: Demo, dark: bool) -> None:
    page.resize(1380, 1000, dark=dark)
    demo.set_live("digits-cnn", "127.0.0.1:8002", health="down")
    demo.set_live("digits-linear", "127.0.0.1:8011", health="failing")
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    page.until(lambda: page.text('[data-instance="127.0.0.1:8002"] .pill') == "down")
    page.until(lambda: len(page.script(CONTRASTS)) > 100)
    measured: list[Any] = page.script(CONTRASTS)
    assert [(round(ratio, 2), text) for ratio, least, text in measured if ratio < least] == []


def test_the_tab_key_reaches_all_that_can_be_used_and_shows_where_it_is(
    page: Page, demo: Demo
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    usable = page.script(
        "window.usable = () => [...document.querySelectorAll("
        "'a, button, input, select, [tabindex=\"0\"]')]"
        ".filter((e) => !e.disabled && e.checkVisibility());"
        "window.first = window.usable(); window.reached = new Set(); window.unseen = [];"
        "document.addEventListener('focusin', ({target: e}) => {"
        "  const s = getComputedStyle(e); window.reached.add(e);"
        "  if (s.outlineStyle === 'none' && s.boxShadow === 'none')"
        "    window.unseen.push(e.outerHTML.slice(0, 99)); });"
        "return window.first.length"
    )
    ActionChains(page.driver).send_keys(Keys.TAB * (usable + 5)).perform()
    assert page.script("return window.unseen") == [], "these have no ring"
    # The page goes on: what an alert brought or took away meanwhile is nobody's place any more.
    missed, useless = page.script(
        "const now = new Set(window.usable()), reached = window.reached;"
        "return [window.first.filter((e) => now.has(e) && !reached.has(e)).length,"
        " [...reached].filter((e) => e.isConnected && !now.has(e)).length]"
    )
    assert (missed, useless) == (0, 0)

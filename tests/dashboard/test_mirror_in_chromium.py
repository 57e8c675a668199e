"""What the dashboard shows of a mirror whose answers are compared, in Chromium."""

import copy

import pytest

from tests.cli.test_mirror import known
from tests.dashboard.conftest import Page
from tests.dashboard.demo import TABLE, Demo

pytestmark = pytest.mark.browser
PANEL = '[data-route="digits"] .mirror'


def test_a_mirror_shows_its_agreement_its_fields_and_examples(page: Page) -> None:
    table = copy.deepcopy(TABLE)
    table["routes"]["digits"]["mirror"] = {"backend": "digits-cnn", "compare": {}}
    with Demo(table=table) as demo:
        demo.mirrors["digits"] = known()
        page.open(demo.url)
        page.until(lambda: "agrees in 97.0 % of 200 pairs" in page.text(f"{PANEL} .head"))
        page.shows(PANEL, "the stable version with itself agrees in 99.5 %")
        page.shows(PANEL, ", 3 unanswered")
        page.shows(f'{PANEL} [data-field="/digit"]', "98.0 %")
        page.shows(f'{PANEL} [data-field="/digit"]', "3.25, at most 6")
        page.press(f"{PANEL} summary")
        page.until(lambda: page.text(f'{PANEL} [data-side="mirror"]') == "1")
        sides = (
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)",
            f'{PANEL} [data-side="mirror"]',
        )
        page.until(lambda: page.script(*sides) == ["1", "–"], "what one side lacks")
        more = {**known(), "pairs": 300}
        more["samples"][0]["differs"] = {"/digit": {"stable": "<b>7</b>", "mirror": 2}}
        demo.mirrors["digits"] = more
        page.until(lambda: "of 300 pairs" in page.text(f"{PANEL} .head"))
        page.until(lambda: page.text(f'{PANEL} [data-side="stable"]') == '"<b>7</b>"')
        page.until(lambda: page.hidden('[data-route="sentiment"] .mirrored'))
        assert page.complaints() == []

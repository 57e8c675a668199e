"""The dashboard of a gateway with a hundred routes, on a desktop and on a phone."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.conftest import Page
from tests.dashboard.demo import Demo

pytestmark = pytest.mark.browser
ROUTES = 100


def many() -> dict[str, Any]:
    names = [f"model-{number:03}" for number in range(ROUTES)]
    return {
        "routes": {
            name: {"match": f"/models/{name}", "split": {f"{name}-old": 90, f"{name}-new": 10}}
            for name in names
        },
        "backends": {
            f"{name}-{age}": {"instances": [f"http://10.0.{index}.{nth}:9000"]}
            for index, name in enumerate(names)
            for nth, age in enumerate(("old", "new"), 1)
        },
    }  # fmt: skip


@pytest.fixture
def crowd() -> Iterator[Demo]:
    with Demo(table=many()) as demo:
        yield demo


def shown(page: Page) -> list[str]:
    """The routes that are to be seen, in order."""
    code = """return [...document.querySelectorAll("tbody[data-route]")]
        .filter((body) => body.offsetHeight).map((body) => body.dataset.route)"""
    return list(page.script(code))


def choose(page: Page, order: str) -> None:
    page.script(
        "const it = document.getElementById('find-order'); it.value = arguments[0];"
        "it.dispatchEvent(new Event('change'))",
        order,
    )


@pytest.mark.parametrize(("width", "height"), [(1380, 1000), (390, 844)])
def test_a_hundred_routes_are_found_ordered_and_folded(
    page: Page, crowd: Demo, width: int, height: int
) -> None:
    crowd.live[("model-042-old", "10.0.42.1:9000")] = {"health": "failing"}
    page.resize(width, height)
    page.open(crowd.url)
    page.until(lambda: len(shown(page)) == ROUTES)
    page.until(lambda: shown(page)[0] == "model-000")
    page.until(lambda: page.text("#find-count") == "100 routes")
    folded = 'return document.querySelectorAll("tbody[data-folded]").length'
    page.until(lambda: page.script(folded) == ROUTES - 1, "all but the one in trouble are folded")

    backends = """return [...document.querySelectorAll("#instances tbody")]
        .filter((body) => body.offsetHeight).map((body) => body.dataset.of)"""
    page.until(lambda: page.script(backends) == ["model-042-old", "model-042-new"])
    lines = 'return document.querySelectorAll(".chart path.line").length'
    page.until(lambda: page.script(lines) == 5, "one line for all of them in each chart")

    choose(page, "trouble")
    page.until(lambda: shown(page)[0] == "model-042", "the worst comes first")
    field = page.find("#find-text")
    page.write(field, "model-07")
    page.until(lambda: len(shown(page)) == 10)
    page.until(lambda: page.text("#find-count") == "10 of 100")
    page.write(field, "nobody")
    page.until(lambda: page.seen("#find-none"))
    page.until(page.fits, "nothing is to the right of the screen")
    assert page.complaints() == []


def test_a_route_has_a_link_that_shows_it_alone(page: Page, crowd: Demo) -> None:
    page.open(f"{crowd.url}#route=model-077")
    page.until(lambda: shown(page) == ["model-077"])
    page.until(lambda: page.driver.title == "Headgate · model-077")
    page.until(lambda: len(page.all(".chart path.line")) == 5 * 2)
    of = "return document.querySelectorAll('#instances tbody:not([hidden])').length"
    page.until(lambda: page.script(of) == 2)
    page.until(lambda: page.seen('[data-backend="model-077-new"]'), "and is not folded")
    page.press("#find-all")
    page.until(lambda: len(shown(page)) == ROUTES)
    page.press('[data-route="model-003"] .fold')
    page.until(lambda: page.seen('[data-backend="model-003-new"]'))
    page.press('[data-route="model-003"] a.name')
    page.until(lambda: shown(page) == ["model-003"])


def test_few_routes_have_nothing_to_be_found(page: Page, demo: Demo) -> None:
    page.open(demo.url)
    page.until(lambda: page.text("#link-text") == "live")
    assert page.hidden("#find")
    assert page.hidden(".fold")

"""The manual's pages say what the code does."""

import pytest

from docs import manual


@pytest.mark.parametrize("name", manual.PAGES)
def test_a_rendered_page_is_the_one_in_docs(name: str) -> None:
    assert (manual.DOCS / name).read_text() == manual.PAGES[name]()

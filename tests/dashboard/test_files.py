"""What the dashboard's files promise before any browser has seen them."""

import re
from pathlib import Path

import pytest

from gateway.controlplane.admin import dashboard
from gateway.controlplane.admin.dashboard import FILES

STATIC = Path(dashboard.__file__).parent / "static"
TEXT = {path: load().decode() for path, (_, load) in FILES.items()}


def test_the_table_names_every_file_and_only_those() -> None:
    names = {"index.html" if path == "/" else path.removeprefix("/dashboard/") for path in FILES}
    assert names == {file.name for file in STATIC.iterdir()}


@pytest.mark.parametrize("path", FILES)
def test_r60_nothing_is_inline_and_nothing_comes_from_elsewhere(path: str) -> None:
    text = TEXT[path]
    elsewhere = [
        url for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text) if "w3.org" not in url
    ]
    assert elsewhere == []
    if path == "/":
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for storage in ("localStorage", "sessionStorage", "indexedDB", "document.cookie"):
        assert storage not in text


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith(".js")])
def test_r63_text_never_becomes_markup(path: str) -> None:
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in TEXT[path], way


@pytest.mark.parametrize("path", [path for path in FILES if path.endswith(".js")])
def test_every_module_that_is_imported_is_served(path: str) -> None:
    for name in re.findall(r'from "\./([\w.]+)"', TEXT[path]):
        assert f"/dashboard/{name}" in FILES


@pytest.mark.parametrize("path", FILES)
def test_files_are_small_enough_to_read(path: str) -> None:
    assert len(TEXT[path].splitlines()) <= 300


def test_everything_together_is_light() -> None:
    assert sum(len(load()) for _, load in FILES.values()) < 143_000


# -- colours: WCAG 2.2, contrast of text ------------------------------------------------------


def themes() -> dict[str, dict[str, str]]:
    """The custom properties of the light and of the dark theme."""
    blocks = re.findall(r":root \{(.*?)\}", TEXT["/dashboard/base.css"], re.S)
    found = [dict(re.findall(r"(--[\w-]+): (#\w{6});", block)) for block in blocks]
    return {"light": found[0], "dark": {**found[0], **found[1]}}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(theme: str) -> None:
    colours = themes()[theme]
    pairs = [(ink, ground) for ink in ("ink", "quiet") for ground in ("paper", "card", "soft")]
    pairs += [(tone, "card") for tone in ("good", "warn", "bad", "accent")]
    pairs += [(tone, f"{tone}-soft") for tone in ("good", "warn", "bad")]
    pairs += [("accent-ink", "accent"), ("paper", "ink")]
    faint = {
        pair: round(contrast(colours[f"--{pair[0]}"], colours[f"--{pair[1]}"]), 2)
        for pair in pairs
        if contrast(colours[f"--{pair[0]}"], colours[f"--{pair[1]}"]) < 4.5
    }
    assert faint == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_sliders_stand_out_from_their_card(theme: str) -> None:
    colours = themes()[theme]
    for number in range(8):
        assert contrast(colours[f"--tint-{number}"], colours["--card"]) >= 3, number

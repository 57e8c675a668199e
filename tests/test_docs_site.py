"""The pages hang together: each is in the navigation, each link leads somewhere, on both sides.

`make docs` builds the site and checks its links as well; here it is done without a builder, for
whoever reads the files as they lie.
"""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from docs import errors_page, website
from docs.configuration_examples import EXAMPLES, REST
from docs.manual import SECTIONS
from gateway.controlplane.admin.problems import KINDS as ADMIN
from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.configuration.yaml_source import read
from gateway.core.errors import KINDS as GATEWAY
from instance.core.errors import KINDS as INSTANCE

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
)
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def test_every_page_is_in_the_navigation_once() -> None:
    """Who adds a page puts it into `nav` of mkdocs.yml, and into docs/README.md."""
    listed = [file for _, _, file in website.pages_of(CONFIG["nav"])]
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    ours = {file for file in here if not file.startswith("decisions/")}
    assert set(listed) == ours | set(website.ELSEWHERE.values()) | {website.DECISIONS}
    assert len(listed) == len(set(listed))


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        name = str(path.relative_to(ROOT / "docs"))
        if name != "README.md" and not name.startswith("decisions/"):
            assert f"]({name})" in index, f"docs/README.md does not lead to {name}"


@cache
def anchors(path: Path) -> set[str]:
    """What a link may end with, as GitHub and the site make it of the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", outside_blocks(path.read_text()), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.add(slug)
    return found


def outside_blocks(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.M | re.S)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_somewhere(path: Path) -> None:
    for _, target in website.LINK.findall(outside_blocks(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


@pytest.mark.parametrize(
    ("file", "target", "led"),
    [
        ("docker.md", "observability.md#traces", "observability.md#traces"),
        ("life-of-a-request.md", "../ARCHITECTURE.md", "architecture.md"),
        ("how-to/upgrade.md", "../../CHANGELOG.md", "../changelog.md"),
        ("architecture.md", "docs/health.md", "health.md"),
        ("architecture.md", "docs/decisions/", "decisions/index.md"),
        ("architecture.md", "gateway/wire/line.py", None),
        ("tour.md", "docs/images/dashboard.png", "images/dashboard.png"),
        ("tour.md", "examples", "examples.md"),
        ("examples.md", "digits/README.md", "examples-digits.md"),
        ("decisions/0034-evidence-is-replayed.md", "../health.md", "../health.md"),
        ("docker.md", "https://example.com/a.md", "https://example.com/a.md"),
        ("docker.md", "#gpus", "#gpus"),
    ],
)
def test_a_link_between_files_is_one_between_pages(file: str, target: str, led: str | None) -> None:
    assert website.site_link(file, target) == led


def test_programs_find_every_page_and_what_it_is_about() -> None:
    lines = website.llms_txt(CONFIG).splitlines()
    assert lines[0] == "# Headgate"
    assert lines[2].startswith("> ")
    entries = [line for line in lines if line.startswith("- ")]
    assert len(entries) == len(list(website.pages_of(CONFIG["nav"])))
    bare = [line for line in entries if not re.fullmatch(r"- \[.+\]\(\S+\.md\): .{10,}", line)]
    assert not bare


def test_each_decision_is_on_the_page_of_decisions() -> None:
    page = website.decisions_page()
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert f"]({path.name})" in page


def test_every_code_of_an_error_is_told_of() -> None:
    """The page is made of these tables, and a code without words fails it."""
    page = errors_page.errors_page()
    for kinds in (GATEWAY, ADMIN, INSTANCE):
        for code, kind in kinds.items():
            assert f"| `{code}` | {kind.status} | **{kind.title}**" in page


def test_every_part_of_the_configuration_has_an_example() -> None:
    """Who adds a part to docs/manual.py adds an example to docs/configuration_examples.py."""
    assert EXAMPLES.keys() == {part for part, _, _ in SECTIONS} | {"gateway"}


@pytest.mark.parametrize("part", EXAMPLES)
def test_an_example_of_the_configuration_can_be_used(part: str) -> None:
    parse(json.dumps(merged(read(REST).value, read(EXAMPLES[part]).value)))


def merged(one: dict, other: dict) -> dict:
    """`one` with what `other` says; whole routes and backends are replaced."""
    result = dict(one)
    for part, entries in other.items():
        result[part] = {**one.get(part, {}), **entries}
    return result

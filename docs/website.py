"""What does the site have that `docs/` has not? Hooks of `mkdocs build`, which `make docs` runs.

The pages of the checkout's root and the examples, a list of the decisions, `llms.txt`, and links
that lead as well on the site as they do between files. Everything here is from files that are
there: nothing has to be kept in step by hand.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
NAV = ROOT / "mkdocs.yml"

# Pages that lie elsewhere in the checkout: there, and on the site.
ELSEWHERE = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "tour.md",
    "examples/README.md": "examples.md",
    "examples/digits/README.md": "examples-digits.md",
}
DECISIONS = "decisions/index.md"
LINK = re.compile(r"(!?\[(?:[^\]\\]|\\.)*\])\(([^)\s]+)\)")
_TITLE = re.compile(r"^# (.+)$", re.M)
_PARAGRAPH = re.compile(r"^[A-Z`*][^\n]*(?:\n(?![\n|#]|<!--|- )[^\n]+)*", re.M)


def title_of(text: str) -> str:
    """The first heading of a page."""
    found = _TITLE.search(text)
    return found[1].replace("`", "") if found else ""


def summary_of(text: str) -> str:
    """The first sentence of a page, without its marks."""
    body = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    found = _PARAGRAPH.search(_TITLE.sub("", body, count=1))
    words = " ".join(found[0].split()) if found else ""
    words = LINK.sub(lambda link: link[1].strip("![]"), words).replace("**", "").replace("`", "")
    return re.split(r"(?<=[.:?!]) (?=[A-Z])", words, maxsplit=1)[0].rstrip(":")


def decisions() -> list[tuple[str, str]]:
    """Number and title of each decision, by its file's name."""
    folder = ROOT / "docs" / "decisions"
    return [(path.name, title_of(path.read_text())) for path in sorted(folder.glob("[0-9]*.md"))]


def decisions_page() -> str:
    """A page that leads to each decision."""
    lines = [f"- [{title}]({name})" for name, title in decisions()]
    head = "# Decisions\n\nWhat was chosen, why, and what was rejected: half a page each.\n\n"
    return head + "\n".join(lines) + "\n"


def pages_of(nav: Any, part: str = "") -> Iterator[tuple[str, str, str]]:
    """Part, title ("" for the page's own) and file of each page in the navigation."""
    for entry in nav:
        if isinstance(entry, str):
            yield part, "", entry
            continue
        for title, below in entry.items():
            if isinstance(below, str):
                yield part, title, below
            else:
                yield from pages_of(below, part or title)


def text_of(file: str) -> str:
    """The source of a page of the site."""
    if file == DECISIONS:
        return decisions_page()
    for source, page in ELSEWHERE.items():
        if page == file:
            return (ROOT / source).read_text()
    return (ROOT / "docs" / file).read_text()


def source_of(file: str) -> str:
    """Where in the checkout a page of the site lies."""
    return next((source for source, page in ELSEWHERE.items() if page == file), f"docs/{file}")


def site_link(file: str, target: str) -> str | None:
    """Where a link of `file` leads on the site; None where that is not on it."""
    path, mark, anchor = target.partition("#")
    if re.match(r"[a-z]+:|/", target) or not path:
        return target
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(file)), path))
    if place in ("docs/decisions", "docs"):
        page = DECISIONS if place.endswith("decisions") else "README.md"
    elif f"{place}/README.md" in ELSEWHERE:
        page = ELSEWHERE[f"{place}/README.md"]
    elif place in ELSEWHERE:
        page = ELSEWHERE[place]
    elif place.startswith("docs/"):
        page = place.removeprefix("docs/")
    else:
        return None
    return posixpath.relpath(page, posixpath.dirname(file) or ".") + mark + anchor


def relinked(file: str, text: str) -> str:
    """`text` with links for the site; what is not there is named without one."""

    def link(found: re.Match[str]) -> str:
        target = site_link(file, found[2])
        return found[1][1:-1] if target is None else f"{found[1]}({target})"

    return "".join(
        part if part.startswith("```") else LINK.sub(link, part)
        for part in re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    )


def llms_txt(config: dict[str, Any]) -> str:
    """`llms.txt` (llmstxt.org): every page with what it is about, for programs that read."""
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}"]
    part_before = None
    for part, title, file in pages_of(config["nav"]):
        if (part := part or "Start") != part_before:
            lines += ["", f"## {part}", ""]
            part_before = part
        text = text_of(file)
        about = summary_of(text)
        lines.append(f"- [{title or title_of(text)}]({file})" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n"


# What MkDocs calls.


def on_config(config: Any) -> Any:
    """Anchors as GitHub makes them, diagrams, and each decision in the navigation."""
    from pymdownx.slugs import slugify
    from pymdownx.superfences import fence_code_format

    config.mdx_configs["toc"] = {"permalink": True, "slugify": slugify(case="lower")}
    diagram = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [diagram]}
    _put_decisions(config.nav)
    return config


def _put_decisions(nav: Any) -> None:
    for entry in nav:
        for title, below in entry.items() if isinstance(entry, dict) else ():
            if below == DECISIONS:
                entry[title] = [DECISIONS, *(f"decisions/{name}" for name, _ in decisions())]
            elif isinstance(below, list):
                _put_decisions(below)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie elsewhere."""
    from mkdocs.structure.files import File

    for page in (*ELSEWHERE.values(), DECISIONS):
        files.append(File.generated(config, page, content=text_of(page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page as the site has it; who searches is looking for a manual first, for reasons last."""
    if page.file.src_uri.startswith(("decisions/", "changelog", "contributing")):
        page.meta["search"] = {"boost": 0.2}
    return relinked(page.file.src_uri, markdown)


def on_post_build(config: Any) -> None:
    """Writes `llms.txt`, all pages in one file, and each page as it was written."""
    site = Path(config.site_dir)
    known = yaml.safe_load(NAV.read_text())
    (site / "llms.txt").write_text(llms_txt(known))
    whole = []
    for _, _, file in pages_of(known["nav"]):
        text = relinked(file, text_of(file))
        (site / file).write_text(text)
        whole.append(text)
    (site / "llms-full.txt").write_text("\n\n".join(whole))

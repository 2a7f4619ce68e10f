"""The pages for people: their links lead somewhere, the index of a part has all of it, and a site is made of them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from scripts import docs

PARTS = ("tutorial", "how-to", "reference", "explanation")
BESIDE = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "agents/DECISIONS.md")


def pages(root: Path) -> list[Path]:
    """All pages: those of docs/, and those that stand beside it."""
    return [root / name for name in BESIDE] + sorted((root / "docs").rglob("*.md"))


def without_code(text: str) -> str:
    """A page's text without its blocks and its words of code, in which `](` means something else."""
    return re.sub(r"`[^`\n]*`", "``", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text: str) -> set[str]:
    """What a link can point at: the headings, as Git hosts and the site name them."""
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", re.sub(r"\]\([^)]*\)", "", one).lower()).replace(" ", "-") for one in headings}


def test_every_link_leads_to_a_file_and_a_heading(root: Path) -> None:
    broken, seen = [], 0
    for page in pages(root):
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
            if target.startswith(("https://", "http://", "mailto:")):
                continue
            seen += 1
            name, _, anchor = target.partition("#")
            there = page.parent / name if name else page
            if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
                broken.append(f"{page.relative_to(root)}: {target}")
    assert broken == []
    assert seen > 100


def test_each_cell_of_who_can_see_what_names_tests_that_are_there(root: Path) -> None:
    """Of all that are there, in both directions: no cell without a test, no test without a cell."""
    part = (root / "SECURITY.md").read_text().split("## Who can see what\n")[1].split("\n## ")[0]
    named = dict(re.findall(r"^- \((\w)\) `(tests/[\w/]+\.py::test_\w+)`$", part, re.MULTILINE))
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and len(rows) == 2 + 6
    used = set(re.findall(r"refused .*?\((\w)\)", part))
    for row in rows[2:]:
        for cell in row[1:]:
            letters = {letter for group in re.findall(r"\((\w(?:, \w)*)\)", cell) for letter in group.split(", ")}
            assert letters or cell == "–", f"{row[0]}: {cell}"
            used |= letters
    assert used == named.keys()
    for there in named.values():
        file, name = there.split("::")
        assert re.search(rf"^(?:async )?def {name}\(", (root / file).read_text(), re.MULTILINE), there


@pytest.mark.parametrize("part", PARTS)
def test_every_page_stands_in_the_index_of_its_part(root: Path, part: str) -> None:
    folder = root / "docs" / part
    index = (folder / "index.md").read_text()
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index)
    assert sorted(set(listed)) == sorted(path.name for path in folder.glob("*.md") if path.name != "index.md")


def test_there_are_four_parts(root: Path) -> None:
    folders = {path.parent.relative_to(root / "docs").parts[0] for path in (root / "docs").glob("*/*.md")}
    assert folders == set(PARTS)


def test_the_site_is_made_without_a_warning_and_fetches_nothing(root: Path, tmp_path: Path) -> None:
    assert docs.build(Path(sys.executable), tmp_path) == 0
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    wanted = {str(path.relative_to(root / "docs").with_suffix(".html")) for path in (root / "docs").rglob("*.md")}
    assert wanted | {page.replace(".md", ".html") for page in docs.BESIDE.values()} <= made
    loads = re.compile(
        r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=\"(?:https?:)?//|url\(['\"]?(?:https?:)?//|@import"
    )
    for path in tmp_path.rglob("*"):
        if path.suffix in {".html", ".css", ".js"}:
            assert not loads.search(path.read_text()), path
    front = (tmp_path / "index.html").read_text()
    assert all(f'href="{part}/index.html"' in front for part in PARTS)


def test_links_to_code_are_words_on_the_site_and_links_to_pages_are_links(tmp_path: Path) -> None:
    page, other = docs.DOCS / "how-to" / "page.md", docs.ROOT / "SECURITY.md"
    at = {page: "how-to/page.md", other: "explanation/security.md"}
    assert docs.within_the_site(page, at, "[a `b`](../../scripts/docs.py), `[c](d)`, [e](../../SECURITY.md#f)") == (
        "a `b`, `[c](d)`, [e](../explanation/security.md#f)"
    )

"""The index of the pages of results, `docs/explanation/results.md`, from the text of these pages. Pure.

A page tells what stands here of it: its question (the first line in italics), where its numbers are from (the line that
begins with the command), the first sentence after that, its table of published figures, and the one under
`## Which to use when`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fedssh.errors import SettingsError

FOLDER = "results"  # of the pages, beside the index
USE = "Which to use when"
_ORIGIN = re.compile(r"^`[^`\n]+`, (?P<date>\d{4}-\d\d-\d\d), commit (?P<commits>[^,\n]+), on ", re.MULTILINE)

_TABLE = re.compile(r"^\| figure \| published \| ours \|(?: verdict \|)?\n\|[- |]+\n((?:\|.*\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """What the index says of a page.

    Attributes:
        said: The first sentence of what was made of the results; empty where nothing was, yet.
        date: Of the results.
        commits: Of the program that made them, in words.
        table: Which policy to use when, as Markdown; empty where the experiment has no scenarios.
        figures: Of each published figure what it is, as published, ours and the verdict; older pages have none.
    """

    name: str
    question: str
    said: str
    date: str
    commits: str
    table: str
    figures: tuple[tuple[str, str, str, str], ...] = ()


def read_entry(name: str, page: str) -> Entry:
    """What the index says of a page.

    Raises:
        SettingsError: The text is no page of results.
    """
    question = re.search(r"^\*([^*\n].*)\*$", page, re.MULTILINE)
    origin = _ORIGIN.search(page)
    if question is None or origin is None:
        lacks = "question in italics" if question is None else "line with its command, date and commit"
        raise SettingsError(f"{FOLDER}/{name}.md is no page of results: it has no {lacks}", "remove it, or report anew")
    said = _first_sentence(page[origin.end() :])
    return Entry(name, question[1], said, origin["date"], origin["commits"], _use(page), _figures(page))


def index(pages: Mapping[str, str], cells: str, reading: str) -> str:
    """The index.

    Args:
        pages: The text of every page, by the experiment's name.
        cells: How to read the tables of policies and scenarios, as Markdown.
        reading: How to read the pages' tables, as Markdown.
    """
    entries = [read_entry(name, pages[name]) for name in sorted(pages)]
    rows = [
        f"| [{one.name}]({FOLDER}/{one.name}.md) | {_cell(one.question)} | {_cell(one.said) or '–'} | {one.date} "
        f"| {one.commits} |\n"
        for one in entries
    ]
    parts = [
        "# What each policy is worth\n",
        "Made by `scripts/experiment --report` from the pages that are there, one per experiment; change nothing here\n"
        "by hand. Every number comes from runs that anyone can repeat: a page begins with its command. Beside a page\n"
        "lie its runs in brief (`NAME.json.gz`), from which `--report` makes it again; the first pages have none.\n",
        "| experiment | question | in short | date | commit |\n| --- | --- | --- | --- | --- |\n" + "".join(rows),
    ]
    figures = [(one.name, figure) for one in entries for figure in one.figures]
    if figures:
        parts.append("## Published figures\n")
        parts.append(
            "| where | figure | published | ours | verdict |\n| --- | --- | --- | --- | --- |\n"
            + "".join(f"| [{name}]({FOLDER}/{name}.md) | {' | '.join(figure)} |\n" for name, figure in figures)
        )
    parts += [f"## {USE}\n", cells]
    parts += [f"**[{one.name}]({FOLDER}/{one.name}.md)**\n\n{one.table}" for one in entries if one.table]
    return "\n".join([*parts, f"## Reading the tables\n\n{reading}"])


def pictures_of(page: str) -> set[str]:
    """The files of pictures that a page shows."""
    return set(re.findall(r"!\[[^\]]*\]\(([^)/]+)\)", page))


def _first_sentence(text: str) -> str:
    """Of the first paragraph that is neither a warning nor a heading nor a table; `text` begins within a line."""
    for paragraph in re.split(r"\n\s*\n", text.partition("\n")[2]):
        said = " ".join(paragraph.split())
        if said.startswith(("#", "|", "![")):
            return ""
        if said and not said.startswith("**"):
            return _from_here(re.split(r"(?<!e\.g)(?<=[.!?])\s(?=[A-Z`*\[])", said)[0])
    return ""


def _use(page: str) -> str:
    section = re.search(rf"^## {USE}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    rows = [line for line in section[1].splitlines() if line.startswith("|")] if section else []
    return _from_here("".join(f"{row}\n" for row in rows))


def _figures(page: str) -> tuple[tuple[str, str, str, str], ...]:
    """The rows of the table of published figures."""
    table = re.search(
        r"^\| figure \| published \| ours \|(?: verdict \|)?\n\|[- |]+\n((?:\|.*\n)+)", page, re.MULTILINE
    )
    found = []
    for line in table[1].splitlines() if table else ():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        found.append((cells[0], cells[1], cells[2], cells[3] if len(cells) > 3 else "–"))
    return tuple(found)


def _from_here(text: str) -> str:
    """A page's text with its links to other pages as they are from the index."""
    return re.sub(r"\]\((?=[\w.-]+\.md)", f"]({FOLDER}/", text)


def _cell(text: str) -> str:
    return text.replace("|", "/")

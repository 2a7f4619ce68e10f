"""The page that `report` prints, as bytes: what may run in it, what stands in it, and what it takes to print."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedssh.charity.cli import charity
from fedssh.history import report
from fedssh.history.published import export
from tests.vectors.histories import kept


class Parts(html.parser.HTMLParser):
    """Scripts, styles and meta elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.metas: dict[str, str] = {}
        self.attributes: set[str] = set()
        self._in: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.attributes |= named.keys()
        if tag == "meta":
            self.metas[str(named.get("http-equiv") or named.get("name"))] = str(named.get("content"))
        if tag in ("script", "style"):
            self._in.append(tag)
            if tag == "script":
                self.scripts.append((named, ""))
            else:
                self.styles.append("")

    def handle_data(self, data: str) -> None:
        if self._in and self._in[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._in:
            self.styles[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if self._in and tag == self._in[-1]:
            self._in.pop()


def digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def page_bytes(name: str) -> bytes:
    return b"".join(report.page(record.line() for record in kept.records(name)))


def test_only_what_its_policy_names_may_run() -> None:
    parts = Parts(page_bytes("best-free").decode())
    policy = dict(one.split(" ", 1) for one in parts.metas["Content-Security-Policy"].split("; "))
    running = [text for named, text in parts.scripts if named.get("type") != "application/json"]
    assert policy == {
        "default-src": "'none'",
        "script-src": " ".join(map(digest, running)),
        "style-src": digest(parts.styles[0]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert len(running) == 2 and len(parts.styles) == 1
    assert not {name for name in parts.attributes if name.startswith("on") or name in ("style", "src")}


def test_the_chart_library_is_the_one_that_was_looked_at() -> None:
    """Its hash is written down; another file under its name would stand still in every page."""
    folder = Path(report.FOLDER)
    assert hashlib.sha256((folder / report.CHARTS).read_bytes()).hexdigest() == report.CHARTS_SHA256
    assert b"1.6.32" in (folder / report.CHARTS).read_bytes()[:200]
    assert "MIT" in (folder / "uPlot.LICENSE").read_text()


def test_every_file_of_the_page_is_in_it() -> None:
    files = {path.name for path in Path(report.FOLDER).iterdir()}
    assert files == {*report.STYLES, *report.SCRIPTS, report.CHARTS, "page.html", "uPlot.LICENSE"}


@pytest.mark.parametrize("name", report.SCRIPTS)
def test_no_script_makes_markup_or_code_of_a_text(name: str) -> None:
    text = (Path(report.FOLDER) / name).read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setTimeout\(\s*[\"'`]"
        r"|DOMParser|createContextualFragment|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(|localStorage|cookie",
        text,
    )


def test_the_records_stand_in_it_as_in_the_export() -> None:
    """The same JSON values; and nothing that could end the element which holds them."""
    for name in ("best-free", "fedavg"):
        page = page_bytes(name)
        start = page.index(b'id="ledger">\n') + len(b'id="ledger">\n')
        inside = page[start : page.index(b"</script>", start)]
        assert b"<" not in inside and inside.isascii()
        exported = b"".join(export(record.line() for record in kept.records(name)))
        assert [json.loads(line) for line in inside.splitlines()] == [
            json.loads(line) for line in exported.splitlines()
        ]


def test_it_needs_no_more_than_a_line_at_a_time() -> None:
    """Pieces come while lines are read: the door may not hold a long history."""
    taken = 0

    def lines() -> Iterator[bytes]:
        nonlocal taken
        for record in kept.records("best-free"):
            taken += 1
            yield record.line()

    pieces = report.page(lines())
    for _ in range(5):
        next(pieces)
    assert 1 <= taken <= 3


def test_charity_prints_and_writes_the_same(tmp_path: Path) -> None:
    state = kept.unpack("best-free", tmp_path)
    run = CliRunner()
    printed = run.invoke(charity, ["report", "--state", str(state)])
    assert printed.exit_code == 0 and printed.stdout_bytes == page_bytes("best-free")
    out = tmp_path / "report.html"
    assert run.invoke(charity, ["report", "--state", str(state), "--out", str(out)]).exit_code == 0
    assert out.read_bytes() == printed.stdout_bytes and out.stat().st_mode & 0o777 == 0o644
    gone = run.invoke(charity, ["report", "--state", str(state), "--out", str(tmp_path / "no" / "report.html")])
    assert isinstance(gone.exception, OSError) and not (tmp_path / "no").exists()

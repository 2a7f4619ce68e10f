"""The page that `report` prints, in a real browser: its numbers, its check, its charts, and what it does not do."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from fedssh.forms import canonical
from fedssh.history import totals, views
from fedssh.history.report import page
from fedssh.history.sites import sites
from fedssh.keys import PrivateKey, load_private
from fedssh.rules.events import Record
from fedssh.signature import LEDGER, sign
from tests.benchmarks.report import history
from tests.harness.browser import Opened, browser
from tests.vectors.histories import kept

Open = Callable[..., Opened]
MARK = b'id="ledger">\n'
# In a line, whose quotes are escaped once more.
MEMBERS = re.compile(rb'\\"(updates|sites|model|metrics|event|site|policy|time|federation|claim|role|of|to|tag)\\":')


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of some ledger lines from a file; each is closed at the end."""
    every: list[Opened] = []

    def make(lines: list[bytes] | bytes, dark: bool = False) -> Opened:
        file = tmp_path / f"{len(every)}.html"
        file.write_bytes(lines if isinstance(lines, bytes) else b"".join(page(lines)))
        every.append(Opened(chromium, file, dark))
        return every[-1]

    yield make
    for one in every:
        one.close()


def lines_of(name: str) -> list[bytes]:
    return [record.line() for record in kept.records(name)]


def rows_of(name: str) -> list[dict[str, Any]]:
    """A history as the views take it."""
    return [{**record.fields, "hash": record.hash, "signature": record.signature} for record in kept.records(name)]


def nearly(found: Any, expected: Any, where: str = "") -> None:
    """Equal, but for the last digits of floats; a number that is missing and one that is null are the same here."""
    if isinstance(expected, dict):
        for name in expected.keys() | found.keys():
            nearly(found.get(name), expected.get(name), f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            nearly(one, other, f"{where}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-9), where
    else:
        assert found == expected, where


# The numbers


@pytest.mark.parametrize("name", [*kept.FOLDERS, *kept.MEMORY])
def test_its_numbers_are_those_of_the_views(name: str, opened: Open) -> None:
    """Of every history that is kept: each row, what each site brought, the model, two records; and all is in order."""
    rows = rows_of(name)
    lines = [record.line() for record in kept.records(name)]
    shown = opened(lines)
    if name in kept.FOLDERS:
        coordinator = views.fingerprint(rows[0]["coordinator"])
        said = (
            f"{len(rows):,} records: every hash, link and signature is right, signed by {coordinator}; compare it with"
        )
        assert shown.checked().startswith(said)
    else:
        assert "Record 1 is not as the coordinator signed it" in shown.checked(), "nobody signs them"
    assert shown.errors == []
    found = shown.page.evaluate("""() => {
        const {records, genesis, prints, metric} = report.shown, [now] = champions(records);
        const steps = records.filter((one) => MAKES_CURRENT.includes(one.event)), sites = siteRows(records, genesis);
        const names = sites.map((row) => row.site), along = gainsAlong(records, steps, names, metric);
        const rows = records.map((one) => ({...historyRow(one, prints), gain: gains(one, metric)}));
        return {rows, sites, along, metric,
                best: assessed(now.record.metrics, genesis.class_names, (genesis.decision || {}).threshold),
                diff: diff(records[0], records.at(-1)), model: now.record.sequence}
    }""")
    asked = [views.history_row(row) for row in rows]
    for own, row in zip(found["rows"], asked, strict=True):
        for member in own:
            nearly(own[member], row[member], f"{name} {row['sequence']} {member}")
    view = sites(rows)
    for own, row, end in zip(found["sites"], view["sites"], found["along"][-1], strict=True):
        for member in row.keys() - {"findings"}:
            nearly(own[member], row[member], f"{name} {row['site']} {member}")
        nearly(end, (row["gain"] or {}).get(found["metric"]), f"{name} {row['site']} at the end of the chart")
    nearly(found["diff"], views.diff(rows[0], rows[-1]), f"{name} diff")
    added = totals.fold(rows)
    assert added is not None
    best = views.best(added, lambda number: rows[number - 1])
    assert found["model"] == best["sequence"]
    if best["holdout"] is None:
        assert found["best"] is None
    else:
        for own, figure in zip(found["best"]["figures"], best["holdout"]["figures"], strict=True):
            nearly({member: own[member] for member in ("of", "value", "low", "high", "right")},
                   {member: figure[member] for member in ("of", "value", "low", "high", "right")}, name)  # fmt: skip
        assert (found["best"]["threshold"] is None) == (best["holdout"]["threshold"] is None)


def test_numbers_are_written_as_in_the_tables(opened: Open) -> None:
    """Halves, wide and negative ones, and none."""
    from fedssh.history.table import decimal

    values = [0.03125, 0.09375, -0.03125, 0.5, 1.0, 0.00005, 123456.789, 1e6, -2.5e7, 1e300, 0.1 + 0.2, 17]
    values += [random.Random(1).random() * 10**power for power in range(-6, 8) for _ in range(20)]
    shown = opened(lines_of("best-free"))
    assert shown.page.evaluate("(values) => values.map(decimal)", values) == [decimal(value) for value in values]


def test_every_number_of_the_first_screen_is_the_views_own(opened: Open) -> None:
    """What a reader sees, not only what the script has."""
    rows = rows_of("best-free")
    shown = opened(lines_of("best-free"))
    added = totals.fold(rows)
    assert added is not None
    best = views.best(added, lambda number: rows[number - 1])
    text = shown.page.inner_text("#main")
    for value in (best["metrics"]["accuracy"], best["metrics"]["loss"], best["genesis"]["accuracy"]):
        assert f"{value:.4f}" in text
    assert best["model"]["sha256"] in text and best["reason"] in text
    for row in sites(rows)["sites"]:
        if row["gain"]:
            assert f"{row['gain']['accuracy']:+.4f}" in text


def test_names_and_the_test_split_are_where_the_model_is(opened: Open, tmp_path: Path) -> None:
    """A curve that was written down is drawn, of the model that is current, whichever record made it so."""
    shown = opened(lines_of("best-named"))
    text = shown.page.inner_text("main > section:first-of-type")
    tested = [row for row in rows_of("best-named") if row["event"] == "tested"]
    assert all(str(row["sequence"]) in text and f"{row['metrics']['accuracy']:.4f}" in text for row in tested)
    assert "The history holds no curve of this model" in shown.page.inner_text("#main")
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    plain = [json.loads(record.text) for record in kept.records("best-named")]
    [back] = [row for row in plain if row["event"] == "rollback"]
    curve = [[0.9, 0.0, 0.5], [0.4, 0.25, 0.75], [0.1, 1.0, 1.0]]
    plain.append({**tested[-1], "of": back["to"], "curve": curve})
    plain.append({"event": "tagged", "time": plain[-1]["time"], "of": back["to"], "tag": "v7", "by": "an operator"})
    for record in plain:
        record.pop("hash", None), record.pop("signature", None)
    shown = opened(signed_lines(key, plain))
    assert "every hash, link and signature is right" in shown.checked()
    assert "v7, by an operator at" in shown.page.inner_text("main > section:first-of-type")
    figure = shown.page.locator("figure", has_text="Receiver operating characteristic")
    assert f"on the test split, record {len(plain) - 1}" in figure.inner_text()
    figure.locator("summary").click()
    rows = [row.inner_text().split("\t") for row in figure.locator("tbody tr").all()]
    assert [row for row in rows if row[3] == "the test split"] == [
        ["0.9000", "50.0 %", "0.0 %", "the test split"], ["0.4000", "75.0 %", "25.0 %", "the test split"],
        ["0.1000", "100.0 %", "100.0 %", "the test split"],
    ]  # fmt: skip


# The check


def test_one_flipped_byte_in_any_record_is_named(opened: Open) -> None:
    """In the file, as it may lie on a disk: a bit somewhere in the line of every record in turn."""
    chance = random.Random(7)
    whole = b"".join(page(lines_of("best-free")))
    start = whole.index(MARK) + len(MARK)
    for number, line in enumerate(whole[start : whole.index(b"</script>", start)].splitlines(keepends=True), 1):
        place = start + chance.randrange(len(line))
        flipped = whole[:place] + bytes([whole[place] ^ (1 << chance.randrange(8))]) + whole[place + 1 :]
        shown = opened(flipped)
        assert f"Record {number} is not as the coordinator signed it" in shown.checked(), (number, place - start)
        assert "It shows nothing" in str(shown.page.text_content("#proof"))
        shown.close()
        start += len(line)


@pytest.mark.parametrize("name", ["fedavg", "best-named"])
def test_a_flipped_bit_of_a_member_s_name_is_named(name: str, opened: Open) -> None:
    """Then a section may lack what it is made from. The check comes all the same, and the page stays."""
    whole = b"".join(page(lines_of(name)))
    start = whole.index(MARK) + len(MARK)
    lines = whole[start : whole.index(b"</script>", start)].splitlines(keepends=True)
    places: dict[tuple[str, bytes], tuple[int, int]] = {}  # by event and member: the first record, and where
    for number, line in enumerate(lines, 1):
        event = json.loads(json.loads(line)["record"])["event"]
        for found in MEMBERS.finditer(line):
            places.setdefault((event, found[1]), (number, start + found.end(1) - 1))
        start += len(line)
    always = [what for what in places if what[1] in (b"updates", b"policy", b"federation", b"tag")]
    chosen = {*always, *random.Random(3).sample(sorted(places), 15)}
    for what in chosen:
        number, place = places[what]
        shown = opened(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert f"Record {number} is not as the coordinator signed it" in shown.checked(), what
        assert shown.errors == []
        shown.close()


def test_each_letter_of_a_record_counts(opened: Open) -> None:
    """Thousands of flips in the text that the page checks: of letters, digits, quotes, escapes, the signature's end."""
    shown = opened(lines_of("best-free"))
    shown.checked()
    wrong = shown.page.evaluate("""async () => {
        const lines = document.getElementById("ledger").textContent.split("\\n").slice(1, -1), wrong = [];
        const key = await readKey(readLines("\\n" + lines[0] + "\\n")[0].fields.coordinator);
        for (const number of [1, 2, 7, lines.length]) {
            const line = lines[number - 1], before = number > 1 ? JSON.parse(lines[number - 2]).hash : START;
            const why = async (changed) => {
                const record = readLines("\\n" + changed + "\\n").map((one) => ({...one, sequence: number}))[0];
                return objection(record, before, key);
            };
            if (await why(line)) wrong.push([number, "as it is"]);
            for (let place = 0; place < line.length; place += 3) {
                const other = String.fromCharCode(line.charCodeAt(place) ^ (1 << (place % 7)));
                const changed = line.slice(0, place) + other + line.slice(place + 1);
                if (!(await why(changed))) wrong.push([number, place, other]);
            }
        }
        return wrong;
    }""")
    assert wrong == []


def test_another_chart_library_leaves_the_check_and_the_tables(opened: Open) -> None:
    """The page names the hash of the one that it was made with, so another one stands still."""
    whole = b"".join(page(lines_of("best-free")))
    shown = opened(whole.replace(b"var uPlot=", b"window.acted=1;var uPlot=", 1))
    assert "every hash, link and signature is right" in shown.checked()
    assert shown.page.evaluate("window.acted") is None
    assert any("Content Security Policy" in error for error in shown.errors)
    shown.page.locator("figure summary").first.click()
    shown.page.locator("figure").first.locator("tbody tr").nth(3).wait_for()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda lines: lines[:4] + lines[5:], "Record 5 is not as"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "Record 5 is not as"),
        (lambda lines: [*lines[:6], lines[5], *lines[6:]], "Record 7 is not as"),
        (lambda lines: [*lines[:3], b"not a line\n", *lines[3:]], "Record 4 is not as"),
        (lambda lines: [lines[0].replace(b"ssh-rsa AAAA", b"ssh-rsa AAAB"), *lines[1:]], "Record 1 is not as"),
        (lambda lines: lines[1:], "Record 1 is not as"),
        (lambda lines: [], "Nothing was checked"),
    ],
    ids=["left-out", "exchanged", "twice", "inserted", "other-key", "no-beginning", "none"],
)
def test_a_history_that_was_put_together_anew_is_named(
    change: Callable[[list[bytes]], list[bytes]], named: str, opened: Open
) -> None:
    shown = opened(change(lines_of("best-free")))
    assert named in shown.checked()


def signed_lines(key: PrivateKey, records: list[dict[str, Any]]) -> list[bytes]:
    """A history of a coordinator who writes what she likes."""
    import hashlib

    found, previous = [], "0" * 64
    for number, fields in enumerate(records, 1):
        text = canonical({**fields, "sequence": number, "previous": previous})
        previous = hashlib.sha256(text).hexdigest()
        found.append(Record(number, previous, text, sign(text, key, LEDGER)).line())
    return found


def test_another_coordinator_s_record_is_named(opened: Open, tmp_path: Path) -> None:
    """Right in every hash and link, but record 5 and what follows are signed by a site's key."""
    keys = kept.unpack_keys(tmp_path / "keys")
    plain = [json.loads(record.text) for record in kept.records("best-free")]
    [*mine] = signed_lines(load_private(keys / "alice-1"), plain)
    assert (
        "Record 5 is not as the coordinator signed it: it is signed by another key"
        in opened([*lines_of("best-free")[:4], *mine[4:]]).checked()
    )
    assert "Record 1 is not as" in opened(mine).checked()


# What it does not do


HOSTILE = (
    "<img src=x onerror=\"window.acted='img'\">",
    "</script><script>window.acted='script'</script>",
    "<!--<script>",
    "\u202egnp.exe\u2066 \x1b[31mred\x07 \u2028\x00",
    "${window.acted='template'}",
    "javascript:window.acted='link'",
    "]]><svg onload=window.acted='svg'>",
)


def hostile(value: Any, words: str) -> Any:
    """A record in which every text that somebody may choose is the words."""
    chosen = ("reason", "federation", "tag", "note", "by", "name", "site", "submission")
    if isinstance(value, dict):
        return {
            name: f"{words} {inner}" if name in chosen and isinstance(inner, str) else hostile(inner, words)
            for name, inner in value.items()
        }
    return [hostile(inner, words) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("words", HOSTILE)
def test_what_a_site_says_is_text(words: str, opened: Open, tmp_path: Path) -> None:
    """Everywhere where it is shown, and signed, so that nothing but the page stands between."""
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    plain = [json.loads(record.text) for record in kept.records("best-free")]
    plain[0] |= {"class_names": [words, f"{words}!"]}
    # A value that is put where the page has a number, too.
    plain.append({**plain[-1], "event": words, "time": words, "session": words, "epoch": words})
    lines = signed_lines(key, [hostile(record, words) for record in plain])
    assert b"<" not in b"".join(page(lines)).split(b'id="ledger">')[1].split(b"</script>")[0]
    shown = opened(lines)
    assert "every hash, link and signature is right" in shown.checked()
    for button in shown.page.locator("main > section:last-of-type button.link").all()[:3]:
        button.click()
        shown.page.keyboard.press("Escape")
    for summary in shown.page.locator("figure summary").all():
        summary.click()
    assert shown.page.evaluate("window.acted") is None
    assert shown.page.evaluate("document.querySelectorAll('img, svg, iframe, object, embed, link, base').length") == 0
    assert shown.page.evaluate("document.scripts.length") == 3 and shown.requests == [] and shown.errors == []
    text = shown.page.evaluate("document.documentElement.innerText")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\x07\u2028]", text)
    if words.startswith("<img"):
        assert words in text
    if words.startswith("\u202e"):
        assert "\\u202egnp.exe\\u2066" in text and "\\u202e" in shown.page.title()


def test_nothing_leaves_it_and_nothing_else_may_run(opened: Open) -> None:
    shown = opened(lines_of("fedavg"))
    shown.checked()
    assert shown.requests == [] and shown.errors == []
    policy = shown.page.get_attribute('meta[http-equiv="Content-Security-Policy"]', "content")
    assert (
        policy is not None and "unsafe" not in policy and policy.startswith("default-src 'none'; script-src 'sha256-")
    )
    refused = shown.page.evaluate("""async () => {
        const found = [];
        const script = document.createElement("script");
        try { script.textContent = "window.acted = 1"; document.body.append(script); } catch { found.push("script"); }
        try { document.body.innerHTML = "<b>"; } catch { found.push("markup"); }
        try { await fetch("http://127.0.0.1:9/"); } catch { found.push("request"); }
        await new Promise((go) => setTimeout(() => { try { eval("1"); } catch { found.push("eval"); } go(); }));
        return [found, window.acted];
    }""")
    assert refused == [["script", "markup", "request", "eval"], None]


# Who reads it


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["best-free", "fedavg"])
def test_axe_finds_nothing(name: str, dark: bool, opened: Open) -> None:
    """As it opens, with every table open, and with a record open."""
    shown = opened(lines_of(name), dark)
    shown.page.wait_for_function("() => globalThis.report?.check", timeout=60_000)
    axe = Axe()
    for opening in ("", "summary", "main > section:last-of-type tbody tr:first-of-type button.link"):
        for one in shown.page.locator(opening).all() if opening else ():
            one.click()
        found = axe.run(shown.page)
        assert found.violations_count == 0, found.generate_report()


def test_every_chart_has_a_table_of_its_numbers(opened: Open) -> None:
    for name in ("best-free", "fedavg"):
        shown = opened(lines_of(name))
        figures = shown.page.locator("figure")
        assert figures.count() >= 4
        for place in range(figures.count()):
            figure = figures.nth(place)
            assert figure.locator("canvas").count() == 1
            assert figure.locator("tbody tr").count() == 0, "made when it is wanted"
            figure.locator("summary").click()
            figure.locator("tbody tr").first.wait_for()
            numbers = figure.locator("tbody td.number").all_inner_texts()
            assert any(re.search(r"\d", cell) for cell in numbers)


def test_it_is_used_without_a_mouse(opened: Open) -> None:
    """To the history by its link, filtered, a record opened and closed, two records compared."""
    shown = opened(lines_of("best-free"))
    shown.checked()
    keys, page = shown.page.keyboard, shown.page

    def focused(script: str = "document.activeElement.textContent") -> str:
        return str(page.evaluate(script))

    def tab_to(wanted: Callable[[], bool]) -> None:
        for _ in range(200):
            keys.press("Tab")
            if wanted():
                return
        raise AssertionError("it cannot be reached")

    keys.press("Tab")
    assert focused() == "to the content"
    tab_to(lambda: focused() == "History")
    keys.press("Enter")
    tab_to(lambda: focused("document.activeElement.type") == "search")
    keys.type("judge cannot")
    page.wait_for_function("() => document.querySelector('main > section:last-of-type').innerText.includes(' of 20')")
    assert "1 of 20 records" in page.inner_text("main > section:last-of-type")
    tab_to(lambda: focused("document.activeElement.className") == "link")
    number = focused()
    keys.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert f"Record {number}: " in page.inner_text("dialog")
    keys.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert focused() == number, "where the reader was"
    page.locator("input[type=number]").first.focus()
    keys.press("Control+a")
    keys.type("7")
    keys.press("Enter")
    assert "record 7" in page.inner_text("main > section:nth-of-type(6)")
    keys.press("Control+a")
    keys.type("99")
    keys.press("Enter")
    assert page.evaluate("document.querySelector('input[type=number]').validity.rangeOverflow")


def test_a_long_table_is_turned_over_page_by_page(opened: Open, tmp_path: Path) -> None:
    """And a filter begins again at the first page."""
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    shown = opened(history(130, key))
    assert shown.checked().startswith("130 records: every hash, link and signature is right, signed by SHA256:")
    section = shown.page.locator("main > section").last
    first, pages = section.locator("tbody th").first, section.locator(".pages")
    assert first.inner_text() == "130" and "1 to 50 of 130" in pages.inner_text()
    assert pages.get_by_text("previous").get_attribute("aria-disabled") == "true"
    pages.get_by_text("last").click()
    assert first.inner_text() == "30" and "101 to 130 of 130" in pages.inner_text()
    assert shown.page.evaluate("document.activeElement.textContent") == "last", "who turns pages keeps the focus"
    assert pages.get_by_text("next").get_attribute("aria-disabled") == "true"
    pages.get_by_text("previous").click()
    assert first.inner_text() == "80"
    section.locator("select").first.select_option(label="accepted")
    accepted = [number for number in range(1, 131) if number % 20 == 4 and number > 4]
    assert section.locator("tbody th").all_inner_texts() == [str(number) for number in reversed(accepted)]
    assert pages.is_hidden()
    section.locator("select").first.select_option(label="all")
    assert first.inner_text() == "130"


def test_a_click_opens_a_record_two_zoom_out_and_a_drag_zooms_in(opened: Open) -> None:
    shown = opened(lines_of("best-free"))
    shown.checked()
    plot, span = shown.page.locator(".plot").first, "drawn[0].shows()"
    plot.scroll_into_view_if_needed()
    box = plot.locator(".u-over").bounding_box()
    assert box is not None
    over = "() => new Promise((go) => setTimeout(go, TWICE_MS + 50))"  # when a click would have opened one
    left, right, height = box["x"] + box["width"] / 4, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.page.mouse.move(left, height)
    shown.page.mouse.down()
    shown.page.mouse.move(right, height, steps=4)
    shown.page.mouse.up()
    shown.page.wait_for_function(f"() => {span} < 10")  # only what was dragged over
    shown.page.evaluate(over)
    assert shown.page.locator("dialog").count() == 0
    shown.page.mouse.dblclick(right, height)
    shown.page.wait_for_function(f"() => {span} > 15")
    shown.page.evaluate(over)
    assert shown.page.locator("dialog").count() == 0
    shown.page.mouse.click(right, height)
    shown.page.wait_for_selector("dialog[open]")


def claiming(claims: list[float]) -> list[dict[str, Any]]:
    """A history in which a site claims some accuracies."""
    plain = [json.loads(record.text) for record in kept.records("best-free")]
    refused = next(row for row in plain if row["event"] == "refused" and row.get("claim"))
    return plain + [{**refused, "claim": {"accuracy": claim, "loss": claim}, "metrics": None} for claim in claims]


@pytest.mark.parametrize("claims", [[1e16, 1e16 + 2], [1e300, -1e300], [5e-324, 1e-320], [0.1, 1e9, 1.0000000001e9]])
def test_no_claim_stops_the_page(claims: list[float], opened: Open, tmp_path: Path) -> None:
    """A site may claim any number; an axis without room between two numbers would never end."""
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    shown = opened(signed_lines(key, claiming(claims)))
    assert "every hash, link and signature is right" in shown.checked()
    assert shown.errors == [] and shown.page.locator("#main .bad").count() == 0


@pytest.mark.parametrize("word", ["constructor", "__proto__", "toString", "__defineGetter__"])
def test_names_that_javascript_has_mean_nothing_here(word: str, opened: Open, tmp_path: Path) -> None:
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    plain = [json.loads(record.text) for record in kept.records("best-free")]
    odd = {**plain[-1], "event": word, "site": word, "claim": {word: 1.0}, "metrics": {word: 0.5, "loss": 0.1}}
    shown = opened(signed_lines(key, [*plain, odd, {**plain[-1], "event": word, word: word}]))
    assert "every hash, link and signature is right" in shown.checked()
    assert shown.errors == [] and shown.page.locator("#main .bad").count() == 0
    shown.page.locator("input[type=number]").last.fill(str(len(plain) + 1))
    shown.page.keyboard.press("Enter")
    assert word in shown.page.inner_text("main > section:nth-of-type(6)")


def test_a_thousand_sites_and_rollbacks_are_shown(opened: Open, tmp_path: Path) -> None:
    """What is added up for a chart is of the sites in it, and a rollback to a rollback is not followed anew."""
    key = load_private(kept.unpack_keys(tmp_path / "keys") / "coordinator_key")
    plain = [json.loads(record.text) for record in kept.records("best-steered")]
    back = next(row for row in plain if row["event"] == "rollback")
    [site] = [row for row in plain if row.get("site") == "alice-1" and row["event"] == "site-added"][:1]
    plain += [{**site, "site": f"site-{number}"} for number in range(1000)]
    number = len(plain)
    plain += [{**back, "to": number + at if at else back["to"]} for at in range(600)]
    shown = opened(signed_lines(key, plain))
    assert "every hash, link and signature is right" in shown.checked()
    assert shown.errors == [] and shown.page.locator("#main .bad").count() == 0
    best = shown.page.evaluate("champions(report.records)[0].source.sequence")
    assert best == back["to"]


def test_it_fits_a_phone_and_a_sheet_of_paper(opened: Open) -> None:
    """Nothing is wider than the page, but tables, which scroll on a screen; on paper none is cut."""
    shown = opened(lines_of("fedavg"))
    shown.checked()
    for width in (360, 700):
        shown.page.set_viewport_size({"width": width, "height": 900})
        if width == 700:
            shown.page.emulate_media(media="print")
        shown.page.wait_for_function("(width) => document.documentElement.scrollWidth <= width", arg=width)
    assert shown.page.locator("form.asked").first.is_hidden() and shown.page.get_by_text("next").first.is_hidden()


def test_without_javascript_it_says_so(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(b"".join(page(lines_of("best-free"))))
    plain = chromium.new_context(java_script_enabled=False).new_page()
    plain.goto(file.as_uri())
    assert "fedssh verify" in plain.inner_text("#check")
    plain.close()

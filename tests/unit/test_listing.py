"""The rows of `history` as they are written: tables that grow, JSON by the line, and CSV that acts on nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.history import listing
from fedssh.history.listing import Listing
from fedssh.history.table import printable
from tests.unit.test_views import OPENED, RECORDS, ROLLED_BACK, ROUNDS, Known, following, judged, listed

SIGNS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def followed(first: list[dict[str, Any]], then: list[dict[str, Any]], as_: str = "") -> str:
    """What is printed of a history that grows."""
    shown = Listing(Known(first), {as_, "--follow"})
    return "".join([*shown.begin(first.copy), *map(shown.more, then)])


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize("records", [RECORDS, ROLLED_BACK, [*ROUNDS, *OPENED]])
@pytest.mark.parametrize("split", [0, 1, 5])
def test_what_comes_one_by_one_is_what_comes_at_once(records: list[dict[str, Any]], split: int) -> None:
    before, then = records[: split or 1], records[split or 1 :]
    rows = [json.loads(line) for line in followed(before, then, "--json").splitlines()]
    assert rows == json.loads(listed(records, "--json"))
    assert followed(before, then, "--csv") == listed(records, "--csv")
    squeezed = [re.sub(r" {2,}", "  ", line).strip() for line in followed(before, then).splitlines()]
    assert squeezed == [re.sub(r" {2,}", "  ", line).strip() for line in listed(records).splitlines()]


def test_a_followed_table_stays_aligned_and_widens_where_it_must() -> None:
    wide = judged("accepted", "hospital-with-a-very-long-name-xx", 0.8)
    then = following(RECORDS, judged("accepted", "alice-1", 0.8), wide, judged("refused", "alice-2", 0.7))
    lines = followed(RECORDS[:1], [*RECORDS[1:], *then]).splitlines()
    claims = [line.index("0.9000 / 0.1000") for line in lines if "0.9000 / 0.1000" in line]
    assert claims[0] == lines[0].index("CLAIMED") and len(set(claims[:-2])) == 1, "the least widths are not enough"
    assert claims[-1] == claims[-2] > claims[0], "the next line is not below the wide one"


def test_an_empty_history_can_be_followed() -> None:
    assert followed([], []).startswith("   #  TIME (UTC)")
    assert followed([], [], "--json") == ""
    assert followed([], RECORDS, "--json").count("\n") == len(RECORDS)


def test_the_heading_is_of_what_the_federation_measures() -> None:
    first = RECORDS[0] | {"metrics": {"mae": 3.0, "loss": 0.5}}
    shown = Listing(Known([first]), {"--follow"})
    assert "CLAIMED MAE / LOSS" in "".join(shown.begin(list))
    told = cells("".join(Listing(Known([first]), {"--csv"}).begin(lambda: [first])))
    assert told[0]["score.mae"] == "3.0" and "score.accuracy" not in told[0]


def test_csv_has_what_json_has() -> None:
    turn = {"steps": 1, "images": 2, "received": 3, "sent": 4, "seconds": 0.5}
    worse = judged("accepted", "alice-1", 0.8, current_metrics={"accuracy": 0.9, "loss": 0.1}, work=turn)
    records = [*RECORDS, *following(RECORDS, worse)]
    rows = json.loads(listed(records, "--json"))
    told = cells(listed(records, "--csv"))
    assert rows[-1]["gain"] == {"accuracy": -0.1, "loss": -0.1} and rows[-1]["bytes"] == 4
    assert told[-1]["gain.accuracy"] == "-0.1" and told[-1]["work.seconds"] == "0.5"
    for row, line in zip(rows, told, strict=True):
        flat: dict[str, Any] = {}
        for name, value in row.items():
            inner = value if isinstance(value, dict) else None
            flat |= {f"{name}.{key}": part for key, part in inner.items()} if inner is not None else {name: value}
        shown = {name: "" if value is None else str(value) for name, value in flat.items()}
        assert {name: text for name, text in line.items() if text} == {
            name: text for name, text in shown.items() if text
        }
    assert listed(records, "--csv").count("\r\n") == len(records) + 1


@given(st.text(max_size=40) | st.text(st.sampled_from("".join(SIGNS) + ";|,\"' \t\r\n1a"), max_size=20))
def test_no_text_of_a_site_acts_on_a_spreadsheet(evil: str) -> None:
    """Not where cells end at commas, and not where a program takes another sign for their end."""
    records = [*RECORDS[:5], RECORDS[5] | {"reason": evil, "submission": evil}]
    text = listed(records, "--csv")
    assert text.replace("\r\n", "").isprintable()
    [*_, line] = cells(text)
    assert line["reason"].replace("'", "") == printable(evil).replace("'", "")
    for parts in (
        [line["reason"], line["submission"]],
        *(re.split(sign, text.splitlines()[-1]) for sign in ("[;]", "[|]", "[,]")),
    ):
        assert not [part for part in parts if part.lstrip().startswith(SIGNS)]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(1)", "'@SUM(1)"), (" =1", "' =1"),
        ("＝1", "'＝1"), ("a;=1", "a;'=1"), ("a|  @1", "a|  '@1"), ("a - b", "a - b"),
        ("0.7 + 0.1 = 0.8", "0.7 + 0.1 = 0.8"),
        ("\t=1", "\\u0009=1"), ("a\r\n=1", "a\\u000d\\u000a=1"), ('"a"', '"""a"""'), ("a, b", '"a, b"'), ("", ""),
        ("a,-b", '"a,\'-b"'),
    ],
)  # fmt: skip
def test_texts_in_cells(text: str, cell: str) -> None:
    assert listing._csv_cell(text) == cell


def test_a_long_text_takes_no_long_time() -> None:
    """All that a record may be long: what grew with its square would take hours here."""
    for text in (" " * 10**6, ", " * 10**6, "; " + " " * 10**6, "=" * 10**6):
        assert len(listing._csv_cell(text)) >= len(text)


def test_numbers_are_numbers() -> None:
    assert [listing._csv_cell(value) for value in (-0.1, 17, 1e300, -(10**30), None)] == [
        "-0.1", "17", "1e+300", "-1" + "0" * 30, "",
    ]  # fmt: skip


@pytest.mark.parametrize("sign", list("=+-@＝＋－＠"))
@pytest.mark.parametrize("before", ["", "x,", "x;", "x| ", 'x;"', "x;'", 'x, "', 'x;""', "x\t"])
def test_no_program_that_splits_elsewhere_finds_a_formula(sign: str, before: str) -> None:
    """A spreadsheet may take semicolons or bars for what divides cells, and quotes for where one begins."""
    cell = listing._csv_cell(f"unknown field '{before}{sign}1+1;'")
    for between in ",;|":
        [row] = csv.reader([f"7,t,invalid,{cell}"], delimiter=between)
        assert not [one for one in row if one.lstrip().startswith(tuple("=+-@＝＋－＠"))], row

"""The rows of `history`: as a table, as JSON or as CSV, all at once or one after the other as they come.

    {"sequence":17, "time":…, "event":"accepted", "site":"alice-1", …}    a row; null where a record says nothing of it

    sequence     the record's number                round, builds_on    of an update, the release that it started from
    time         in UTC                             examples            how many the site trained on
    event, site  what happened, and at whom         claim, score        what the site said, what the holdout said:
    session      the site's, from 1                                     accuracy (of numbers mae) and loss
    epoch        its epoch, of a report how many    share               of what was sent in the model
    submission   its id                             reason              why, or what else there is to know
    hash         of the record                      work                under split: what went through the channel
    bytes        what a site sent for a verdict: its model file before it was sealed, and what its channel took
    gain         of what became current by training: by how much it is better than the one before, in the metric
                 that the federation compares models by, and in loss; positive is better

`--json` is a list of them, with `--follow` one object a line. `--csv` has the same by RFC 4180, with a heading and what
is nested under names such as `claim.loss`; missing is empty. Spreadsheets take a cell that begins with `=`, `+`, `-` or
`@` for a formula, so a text that would begin so, or go on so behind what some take for the end of a cell, has an
apostrophe before the sign; whoever wants the exact text asks for `--json`. Numbers are numbers, also negative ones.

A table that is followed cannot know how wide its columns will be: they begin wide enough for most, and a wider cell
widens its column from there on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

from fedssh.history.contributions import metric_of
from fedssh.history.published import escaped
from fedssh.history.table import Aligned, clock, printable
from fedssh.history.text import json_lines, measure, pair
from fedssh.history.totals import headline
from fedssh.history.views import Fields, History, Row, history_row

Rows = Callable[[], Iterable[Row]]

_COLUMNS = ("#", "TIME (UTC)", "EVENT", "SITE", "SESSION", "EPOCH", "CLAIMED {} / LOSS", "SCORED {} / LOSS", "WHY")
_LEAST = (4, 19, 14, 10, 7, 5, 18, 17, 0)
_WORK = ("steps", "images", "received", "sent", "seconds")
_PLAIN = (
    "sequence", "time", "event", "site", "session", "epoch", "round", "builds_on", "examples", "claim", "score",
    "share", "reason", "submission", "hash", "work", "bytes", "gain",
)  # fmt: skip
_SIGNS = "=+-@＝＋－＠"  # in full width, too
_NEXT_CELL = re.compile(rf"([,;|\t][\s\"']*)(?=[{re.escape(_SIGNS)}])")  # also where a quote begins a cell


class Form(Protocol):
    """How rows are written."""

    def begin(self, rows: Rows) -> Iterator[str]:
        """The rows that there are; `rows` gives the same each time."""

    def more(self, row: Row) -> str:
        """One more row, after these."""


class Listing:
    """The history in one form.

    Args:
        history: From it comes what the federation compares models by.
        given: Options of `history`: `--json`, `--csv`, or neither for a table; `--follow` if more rows will come.
    """

    def __init__(self, history: History, given: Container[str] = ()) -> None:
        first = history.row(1) if history.count else {}
        self.metric = metric_of(first)
        score = headline(first.get("metrics"))
        following = "--follow" in given
        self.form: Form
        if "--json" in given:
            self.form = JsonLines() if following else JsonList()
        elif "--csv" in given:
            self.form = Csv(self.metric, "mae" if "mae" in (score or {}) else "accuracy")
        else:
            self.form = Table(score, _LEAST if following else ())

    def begin(self, records: Callable[[], Iterable[Fields]]) -> Iterator[str]:
        """The records that there are, piece by piece; `records` gives the same each time."""
        return self.form.begin(lambda: map(self._row, records()))

    def more(self, record: Fields) -> str:
        """One more record."""
        return self.form.more(self._row(record))

    def _row(self, record: Fields) -> Row:
        return history_row(record, self.metric)


class Table:
    """Lines for people.

    Args:
        score: Of the first record.
        least: How wide each column is at least.
    """

    def __init__(self, score: Row | None, least: Sequence[int]) -> None:
        self._score, self._least = score, least
        self._aligned: Aligned | None = None

    def begin(self, rows: Rows) -> Iterator[str]:
        """The heading and a line for each."""
        of = measure(chain([self._score], (score for row in rows() for score in (row["score"], row["claim"]))))
        self._aligned = aligned = Aligned([name.format(of) for name in _COLUMNS], (0, 4, 5), self._least)
        aligned.measure(map(_cells, rows()))
        yield aligned.heading()
        yield from map(self.more, rows())

    def more(self, row: Row) -> str:
        """A line."""
        assert self._aligned is not None, "a table begins with its heading"
        return self._aligned.line(_cells(row))


def _cells(row: Row) -> Sequence[object]:
    return (row["sequence"], clock(row["time"]), row["event"], row["site"], row["session"], row["epoch"],
            pair(row["claim"]), pair(row["score"]), row["reason"])  # fmt: skip


class JsonList:
    """One list for programs."""

    def begin(self, rows: Rows) -> Iterator[str]:
        """The list, indented."""
        return json_lines(rows())

    def more(self, row: Row) -> str:
        """A list has an end: what is followed comes as lines."""
        raise AssertionError("nothing follows a list")


class JsonLines:
    """An object a line for programs."""

    def begin(self, rows: Rows) -> Iterator[str]:
        """A line for each."""
        return map(self.more, rows())

    def more(self, row: Row) -> str:
        """A line."""
        return escaped(json.dumps(row, separators=(",", ":"))) + "\n"


class Csv:
    """Lines of cells for spreadsheets (RFC 4180).

    Args:
        metric: What models are compared by.
        headline: What is shown of a score beside its loss.
    """

    def __init__(self, metric: str, headline: str) -> None:
        scores = (headline, "loss")
        nested = {"claim": scores, "score": scores, "work": _WORK, "gain": dict.fromkeys((metric, "loss"))}
        self._cells = [(name, inner) for name in _PLAIN for inner in nested.get(name, ("",))]

    def begin(self, rows: Rows) -> Iterator[str]:
        """The heading and a line for each."""
        yield _csv_line(f"{name}.{inner}" if inner else name for name, inner in self._cells)
        yield from map(self.more, rows())

    def more(self, row: Row) -> str:
        """A line."""
        return _csv_line((row.get(name) or {}).get(inner) if inner else row.get(name) for name, inner in self._cells)


def _csv_line(cells: Iterable[object]) -> str:
    return ",".join(map(_csv_cell, cells)) + "\r\n"


def _csv_cell(value: Any) -> str:
    """A number as JSON has it; a text so that neither a terminal nor a spreadsheet acts on it."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return json.dumps(value)
    text = _NEXT_CELL.sub(r"\1'", printable(value))
    text = f"'{text}" if text.lstrip()[:1] in tuple(_SIGNS) else text
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"') else text

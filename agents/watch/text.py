"""What there is to show, as lines and cells of text for a screen or a pipe. Pure.

Nothing of it can act on a terminal, and none of it is markup: strings of a site pass through `printable`.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from fedssh.history.table import clock, decimal, named_lines, number, printable, table
from fedssh.history.text import origin, pair, rounds_lines, schedule_text
from fedssh.watch.board import QUIET

Row = dict[str, Any]
BARS = "▁▂▃▄▅▆▇█"
SITES = ("SITE", "HEARD", "SESS", "EP", "CLAIM", "SCORE", "GAIN", "TAKEN", "REFUSED", "INVALID")  # within 80 letters
NUMBERS = (2, 3, 4, 5, 6, 7, 8, 9)  # columns of SITES that align to the right
NEWS = ("#", "TIME (UTC)", "EVENT", "SITE", "SCORED", "WHY")
ORDERS = ("as enrolled", "last heard", "gain", "scored")  # of the sites


def heading(value: Row) -> str:
    """Federation, policy and schedule in a line."""
    status = value["status"]
    gate = {"on": f"gate on, margin {status['margin']}", "off": "no gate"}.get(
        str(status["gate"]), f"gate {status['gate']}"
    )
    words = (f"{value['federation']}, {status['state']}", schedule_text(status), f"policy {status['policy']}", gate)
    return printable(" · ".join(words))


def site_rows(value: Row, now: float, order: str = ORDERS[0]) -> list[tuple[str, ...]]:
    """A row of cells for each site.

    Args:
        now: In seconds since 1970.
        order: One of `ORDERS`.
    """
    metric = value["metric"]

    def gain(row: Row) -> float:
        return float((row["gain"] or {}).get(metric, 0.0))

    keys = {
        "last heard": lambda row: -(_seconds(row["last"]) or 0.0),
        "gain": lambda row: -gain(row),
        "scored": lambda row: -_rank(row["score"]),
    }
    rows = sorted(value["sites"], key=keys[order]) if order in keys else value["sites"]
    return [_site_row(row, metric, now) for row in rows]


def _site_row(row: Row, metric: str, now: float) -> tuple[str, ...]:
    gone = " (revoked)" if row["state"] == "revoked" else ""
    gain = (row["gain"] or {}).get(metric)
    return tuple(
        printable(str(cell))
        for cell in (
            f"{row['site']}{gone}",
            ago(row["last"], now),
            _plain(row["session"]),
            _plain(row["epoch"]),
            _measured(row["claim"]),
            _measured(row["score"]),
            "–" if gain is None else f"{gain:+.4f}",
            row["accepted"] + row["counted"],
            row["refused"],
            row["invalid"],
        )
    )


def news_rows(value: Row, every: bool = False, wanted: str = "") -> list[tuple[str, ...]]:
    """A row of cells for each of the newest records, the newest first.

    Args:
        every: Also what changes nothing: releases, reports, and what rounds are made of.
        wanted: Only those in which this text stands, in whatever case.
    """
    rows = [_news_row(row) for row in reversed(value["news"]) if every or row["event"] not in QUIET]
    return [row for row in rows if wanted.casefold() in " ".join(row).casefold()]


def _news_row(row: Row) -> tuple[str, ...]:
    cells = (row["sequence"], clock(row["time"])[5:16], row["event"], _plain(row["site"]), _measured(row["score"]))
    return tuple(printable(str(cell)) for cell in (*cells, row["reason"]))


def best_lines(value: Row) -> list[tuple[str, str]]:
    """The current model by name: since when and what it scores, of whom, and why."""
    best, status = value["best"], value["status"]
    score = pair(status["current"]["score"]) or "not scored"
    called = "".join(f", called {name['tag']}" for name in best["names"])
    return [
        (
            "best",
            printable(f"record {best['sequence']}, {best['event']}{called}, since {clock(best['since'])}: {score}"),
        ),
        ("from", printable(origin(best))),
        ("why", printable(best["reason"] or "–")),
    ]


def round_lines(value: Row) -> list[tuple[str, str]]:
    """By name the open round and the last one; nothing where there are no rounds."""
    status = value["status"]
    if status["rounds"] is None:
        return []
    lines = rounds_lines(status["rounds"], over=status["state"] == "finished")
    return [(name, printable(str(said))) for name, said in lines]


def curve_line(value: Row, width: int) -> str:
    """What the current model scored over time, in a line of at most so many letters."""
    scored = [point["value"] for point in value["curve"] if point["value"] is not None]
    if not scored:
        return f"{value['metric']}: not scored"[:width]
    last = f" {decimal(scored[-1])} on the holdout, {number(len(scored), 'model')}"
    head = f"{value['metric']} {decimal(scored[0])} "
    return printable(f"{head}{sparkline(scored, max(width - len(head) - len(last), 1))}{last}")


def sparkline(values: Sequence[float], width: int) -> str:
    """Numbers as bars between their lowest and their highest; of too many, the last of each stretch."""
    if len(values) > width:
        values = [values[(at + 1) * len(values) // width - 1] for at in range(width)]
    low, high = min(values), max(values)
    if high == low:
        return BARS[3] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)


def whole(value: Row, checked: str, now: float, width: int = 80, most: int = 20) -> str:
    """All of it as plain text.

    Args:
        checked: What was checked, and by whose key.
        most: How many of the newest records.
    """
    parts = [
        f"{heading(value)}\n{printable(checked)}\n",
        table(SITES, site_rows(value, now), right=NUMBERS),
        f"{curve_line(value, width)}\n",
        named_lines([*best_lines(value), *round_lines(value)]),
        table(NEWS, news_rows(value)[:most], right=(0, 4)),
    ]
    return "\n".join(parts)


def ago(time: object, now: float) -> str:
    """How long ago a time of a record was: `12 s`, `3 min`, `5 h`, `9 d`."""
    then = _seconds(time)
    if then is None:
        return "–"
    passed = max(0, int(now - then))
    for unit, seconds, most in (("s", 1, 60), ("min", 60, 60), ("h", 3600, 48)):
        if passed < seconds * most:
            return f"{passed // seconds} {unit}"
    return f"{passed // 86400:,} d"


def _seconds(time: object) -> float | None:
    return None if time is None else datetime.datetime.fromisoformat(str(time)).timestamp()


def _measured(score: Row | None) -> str:
    return "–" if score is None else decimal(score.get("accuracy", score.get("mae")))


def _rank(score: Row | None) -> float:
    if not score:
        return float("-inf")
    return float(score["accuracy"]) if "accuracy" in score else -float(score.get("mae", 0.0))


def _plain(value: object) -> str:
    return "–" if value is None else str(value)

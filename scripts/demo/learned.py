"""What was learned: from the history and a score on the test split to values, `summary.json`, and texts. Pure.

{"record": N, "data": {…}, "network": {…}, "training": {…}, "test": {…}, "compared": {…},
"over_time": [{…}], "sites": [{…}]}
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fedssh.history.contributions import contributions as contributed
from fedssh.history.table import named_lines, number, printable, table
from fedssh.rules.vocabulary import MAKES_CURRENT
from scripts.demo.bar import clock
from scripts.demo.chart import Point

Row = dict[str, Any]
WIDTH = 80
BREAK_SECONDS = 600.0  # nobody worked that long on one model: somebody was away
PAIRS = 8  # of classes taken for each other, where a matrix would not fit


def learned(records: Sequence[Row], divided: Mapping[str, Any], test: Mapping[str, Any]) -> Row:
    """Everything that there is to say.

    Args:
        records: The history, from its first record.
        divided: What the setup made: `dataset`, `sites` with their images, `holdout`; empty for an older folder.
        test: What `charity score --split=test --json` says.
    """
    genesis = records[0]
    main = str(genesis["plan"]["metric"])
    times = _times(records)
    number_of = genesis["spec"].get("classes") or genesis["spec"].get("labels") or len(genesis["spec"]["targets"])
    reports = [record for record in records if record["event"] == "report"]
    return {
        "record": test["sequence"],
        "data": {
            "name": divided.get("dataset"),
            "classes": list(genesis.get("class_names") or map(str, range(number_of))),
            "input": genesis["spec"]["input"],
            "holdout": divided.get("holdout"),
            "test": test["examples"],
        },
        "network": {"spec": genesis["spec"], "bytes": genesis["model"]["size"]},
        "training": {
            "policy": genesis["policy"],
            "metric": main,
            "sessions": len(reports),
            "epochs": sum(record["epochs"] for record in reports),
            "releases": sum(record["event"] == "release" for record in records),
            "seconds": round(times[-1], 3),
        },
        "test": dict(test["metrics"]),
        "compared": test.get("compared"),
        "over_time": [point._asdict() for point in _points(records, times, main)],
        "sites": _sites(records, divided, main),
    }


def _times(records: Sequence[Row]) -> list[float]:
    """When each record was made, in seconds of work: breaks between two runs are left out."""
    moments = [datetime.datetime.fromisoformat(record["time"]).timestamp() for record in records]
    times = [0.0]
    for before, after, record in zip(moments, moments[1:], records[1:], strict=False):
        passed = 0.0 if record["event"] == "reopened" else min(max(after - before, 0.0), BREAK_SECONDS)
        times.append(times[-1] + passed)
    return times


def _points(records: Sequence[Row], times: Sequence[float], main: str) -> list[Point]:
    points = []
    for record, seconds in zip(records, times, strict=True):
        event = record["event"]
        score = (record.get("metrics") or {}).get(main)
        if score is not None and event in (*MAKES_CURRENT, "refused", "round-refused"):
            points.append(Point(round(seconds, 3), score, record.get("site") or "", event in MAKES_CURRENT))
    return points


def _sites(records: Sequence[Row], divided: Mapping[str, Any], main: str) -> list[Row]:
    """What each site contributed."""
    names = [record["site"] for record in records if record["event"] == "site-added" and record["role"] == "site"]
    rounds = [record for record in records if record["event"] == "round-accepted"]
    brought, found = contributed(records), list[Row]()
    for name in dict.fromkeys(names):
        own = [record for record in records if record.get("site") == name]
        models = [one["event"] for one in own if one.get("model")]  # a report is refused without one
        counts = {event: models.count(event) for event in ("accepted", "refused", "counted")}
        found.append(
            {
                "site": name,
                "images": divided.get("sites", {}).get(name)
                or max((one["examples"] for one in own if "examples" in one), default=None),
                "sessions": sum(one["event"] == "report" for one in own),
                "epochs": sum(one["epochs"] for one in own if one["event"] == "report"),
                **counts,
                "rounds": sum(any(part["site"] == name for part in record["updates"]) for record in rounds),
                "gain": _rounded(brought.get(name, {}).get(main)),
                "gain_in_loss": _rounded(brought.get(name, {}).get("loss")),
            }
        )
    return found


def _rounded(gain: float | None) -> float | None:
    return None if gain is None else round(gain, 6)


def about(value: Row) -> str:
    """What was learned on which data, as lines of name and value."""
    data, network, training = value["data"], value["network"], value["training"]
    spec = dict(network["spec"])
    images = [f"{row['images']:,} at {row['site']}" for row in value["sites"] if row["images"] is not None]
    rest = [f"{data[name]:,} {what}" for name, what in (("holdout", "as holdout"), ("test", "to test")) if data[name]]
    of_task = ("name", "input", "classes", "kind", "task", "targets", "labels")
    parts = ", ".join(f"{name} {spec[name]}" for name in spec if name not in of_task)
    table = spec.get("kind") == "table"
    taken = f"rows of {data['input'][1]} numbers" if table else f"images of {'x'.join(map(str, data['input']))}"
    return named_lines(
        [
            ("data", data["name"]),
            ("rows" if table else "images",
             f"{', '.join(images)}; {', '.join(rest)}" if len(images) <= 5 else _many(value, rest)),
            ("predicts" if "task" in spec else "classes", _few(data["classes"])),
            ("network", f"{spec['name']}{f' ({parts})' if parts else ''} for {taken}, a file of "
                        f"{network['bytes'] / 1e6:.2f} MB"),
            ("trained", f"{number(training['sessions'], 'session')}, {number(training['epochs'], 'epoch')} at "
                        f"{number(len(value['sites']), 'site')} in {clock(training['seconds'])}"),
            ("released", f"{number(training['releases'], 'time')}; this is the model of record {value['record']}"),
        ]
    )  # fmt: skip


def _many(value: Row, rest: Sequence[str]) -> str:
    images = sum(row["images"] or 0 for row in value["sites"])
    return f"{images:,} at {number(len(value['sites']), 'site')}; {', '.join(rest)}"


def _few(names: Sequence[str]) -> str:
    shown = list(names) if len(names) <= 10 else [*names[:9], f"{len(names) - 9} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def scores(value: Row) -> str:
    """What the current model scores on the test split, and which class it takes for which."""
    plain = {name: found for name, found in value["test"].items() if isinstance(found, int | float)}
    head = named_lines((name.replace("_", " "), f"{found:.4f}") for name, found in plain.items())
    confusion = value["test"].get("confusion")
    table = "\n" + matrix(confusion, value["data"]["classes"]) if confusion else ""
    both = value.get("compared")
    return head + table + ("\n" + textwrap.fill(both["sentence"], WIDTH) + "\n" if both else "")


def matrix(confusion: Sequence[Sequence[int]], names: Sequence[str], width: int = WIDTH) -> str:
    """Which class (rows) is taken for which (columns), with the shares of each row where there is room for them.

    Where even the counts are too wide: for each class the share that is recognised, and what is confused most.
    """
    named = [name if len(name) <= 20 else name[:19] + "~" for name in map(printable, names)]
    for with_shares in (True, False):
        rows = [
            (f"true {name}", *(_cell(count, sum(row), with_shares) for count in row), _share(row[at], sum(row)))
            for at, (name, row) in enumerate(zip(named, confusion, strict=True))
        ]
        heads = [f"called {name}" if with_shares else name[:7] for name in named]
        text = table(["", *heads, "RIGHT"], rows, right=range(1, len(named) + 2))
        if max(map(len, text.splitlines())) <= width:
            return text
    classes = [(name, row[at], sum(row), _share(row[at], sum(row)))
               for at, (name, row) in enumerate(zip(named, confusion, strict=True))]  # fmt: skip
    pairs = sorted(
        ((count, named[true], named[called]) for true, row in enumerate(confusion)
         for called, count in enumerate(row) if count and true != called), reverse=True,
    )[:PAIRS]  # fmt: skip
    text = table(("CLASS", "RIGHT", "OF", ""), classes, right=(1, 2, 3))
    if pairs:
        text += "\n" + table(("TRUE", "CALLED", "TIMES"), [(one, two, count) for count, one, two in pairs], right=(2,))
    return text


def _cell(count: int, of: int, with_share: bool) -> str:
    return f"{count:,} ({_share(count, of)})" if with_share else str(count)


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.0f} %" if of else "-"


def contributions(value: Row) -> str:
    """What each site contributed, as a table."""
    metric = value["training"]["metric"]
    in_rounds = any(row["counted"] for row in value["sites"])
    rows = []
    for row in value["sites"]:
        shared: list[object] = [row["site"], row["sessions"], row["epochs"]]
        if in_rounds:
            rows.append([*shared, row["counted"], row["refused"], row["rounds"]])
        else:
            by = "–" if row["gain"] is None else f"{row['gain']:+.4f}"
            rows.append([*shared, row["accepted"], row["refused"], by])
    last = ["COUNTED", "REFUSED", "ROUNDS ACCEPTED WITH IT"]
    if not in_rounds:
        last = ["ACCEPTED", "REFUSED", f"GAIN IN {metric.upper().replace('_', ' ')}"]
    return table(["SITE", "SESSIONS", "EPOCHS", *last], rows, right=range(1, 6))

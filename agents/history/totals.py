"""What the views of the whole history need, added up record by record, so that nobody has to read it all. Pure.

    outbox/summary.json   {"format":1,"sequence":n,"hash":…, the rest as `begin` shows it}: the totals as of record n

The vault writes it every 100 records; whoever shows a view adds the few records since. It is derived: when it is
missing, damaged, or of another history (record n has another hash), the totals are added up from the first record; and
so where a program went on with it that passes over names (`named` is not n).
Standard library only; a record here is its own fields plus its `hash` and `signature`.
"""

from __future__ import annotations

import json

from fedssh.history import work
from fedssh.rules.vocabulary import MAKES_CURRENT, VERDICTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Fields = Mapping[str, Any]
    Row = dict[str, Any]

FORMAT = 1
EVERY = 100
KEPT_RELEASES = 100
_OF_GENESIS = (
    "federation", "schedule", "policy", "gate", "margin", "sessions", "rates", "metrics", "architecture",
)  # fmt: skip
_UNHEARD: Row = {**dict.fromkeys(VERDICTS, 0), "garbage": 0, "sessions": 0, "best": None, "round": None, "last": None}


def fold(records: Iterable[Fields], totals: Row | None = None) -> Row | None:
    """The totals after some more records; they are changed in place. None before the first record."""
    for record in records:
        if totals is None:
            totals = begin(record)
        add(totals, record)
    return totals


def read(text: bytes) -> Row | None:
    """The totals in a summary; None when it is damaged, of another format, or of a version that knows no names."""
    try:
        totals: Row = json.loads(text)
        return totals if totals["format"] == FORMAT and totals["named"] == totals["sequence"] else None
    except (ValueError, KeyError, TypeError):
        return None


def write(totals: Row) -> bytes:
    """A summary's text."""
    return json.dumps(totals, separators=(",", ":")).encode() + b"\n"


def begin(first: Fields) -> Row:
    """The totals before the first record is added."""
    return {
        "format": FORMAT,
        "sequence": 0,
        "hash": None,
        "time": None,
        "genesis": {name: first.get(name) for name in _OF_GENESIS},
        "judged": dict.fromkeys(VERDICTS, 0),  # how many of each
        "garbage": 0,  # bundles that were dropped and counted
        "nodes": {},  # by name, in order of first enrolment: the row of `nodes`
        "used": {},  # by site: what `rates` keeps
        "made": None,  # the record that made the current model current
        "releases": [],  # the newest of the current model
        "judged_since": 0,  # how many since it became current
        "release": None,  # the newest: {"sequence", "turn"}
        "finished": False,
        "sessions": first.get("sessions"),
        "names": {},  # by name: {"of", "record", "since", "by", "note"}
        "named": 0,  # up to which record names are followed: all of them
        "tested": {},  # by number of the record that first had the model: {"times", "record": the newest}
        "back": {},  # by number of a rollback: the record that first had its model
        "rounds": {"closed": 0, "last": None, "open": None} if first.get("schedule") == "rounds" else None,
    }


def add(totals: Row, record: Fields) -> None:
    """Add one record."""
    event = record["event"]
    totals |= {"sequence": record["sequence"], "hash": record["hash"], "time": record["time"]}
    if event in VERDICTS:
        totals["judged"][event] += 1
        totals["judged_since"] += 1
        if "work" in record:
            totals["work"] = work.add(totals.get("work"), record["work"])
    elif event == "garbage":
        totals["garbage"] += record["count"]
    elif event == "release":
        told = record.get("federation") or {}
        totals["release"] = {"sequence": record["sequence"], "turn": told.get("turn")}
        if totals["made"] and record["of"] == totals["made"]["sequence"]:
            totals["releases"] = [*totals["releases"], record["sequence"]][-KEPT_RELEASES:]
    elif event in ("finished", "reopened"):
        totals["finished"] = event == "finished"
        totals["sessions"] = totals["sessions"] if totals["finished"] else record.get("sessions")
    if event in MAKES_CURRENT:
        made = {name: value for name, value in record.items() if name != "signature"}
        totals |= {"made": made, "releases": [], "judged_since": 0}
    _add_name(totals, record)
    _add_site(totals, record)
    if totals["rounds"] is not None:
        # The rules of rounds cost the door 15 ms, so only where there are any.
        from fedssh.history.rounds import follow

        follow(totals["rounds"], record)


def source(totals: Row, number: int) -> int:
    """The record that first had the model that a record made current: itself, but for a rollback."""
    return int(totals["back"].get(str(number), number))


def _add_name(totals: Row, record: Fields) -> None:
    event, totals["named"] = record["event"], record["sequence"]
    if event == "rollback":
        totals["back"][str(record["sequence"])] = source(totals, record["to"])
    elif event == "tagged":
        told = {"of": record["of"], "record": record["sequence"], "since": record["time"]}
        totals["names"][record["tag"]] = told | {name: record.get(name) for name in ("by", "note")}
    elif event == "untagged":
        totals["names"].pop(record["tag"], None)
    elif event == "tested":
        of = str(source(totals, record["of"]))
        times = totals["tested"].get(of, {"times": 0})["times"]
        totals["tested"][of] = {"times": times + 1, "record": record["sequence"]}


def _add_site(totals: Row, record: Fields) -> None:
    event, name, nodes = record["event"], record.get("site"), totals["nodes"]
    if event == "site-added":
        row = nodes.setdefault(str(name), {"site": name} | _UNHEARD)
        row |= {"role": record.get("role"), "key": record.get("key"), "state": "enrolled", "since": record["time"]}
    if isinstance(name, str) and name in nodes:
        _hear(nodes[name], record)
    if totals["genesis"]["rates"]:
        from fedssh.rules import rates

        totals["used"] = rates.follow(totals["used"], record, rates.agreed(totals["genesis"]))


def _hear(row: Row, record: Fields) -> None:
    """What one record adds to the row of the site that it is about."""
    event = record["event"]
    if event == "site-revoked":
        row |= {"state": "revoked", "since": record["time"]}
    elif event in VERDICTS or event == "report":
        row["sessions" if event == "report" else event] += not record.get("passed")
        row["last"] = record["time"]
    elif event == "garbage":
        row |= {"garbage": row["garbage"] + record["count"], "last": record["time"]}
    if event == "counted":
        row["round"] = record.get("round")  # the last in which it took part
    if event == "accepted":
        score = headline(record.get("metrics"))
        if score and (row["best"] is None or _rank(score) > _rank(row["best"])):
            row["best"] = score


def headline(metrics: object) -> Row | None:
    """Accuracy (of numbers: the mean absolute error) and loss of a metrics object; None when it has neither."""
    if not isinstance(metrics, dict):
        return None
    found = {name: metrics[name] for name in ("accuracy", "mae", "loss") if plain(metrics.get(name)) is not None}
    return found or None


def plain(value: object) -> float | None:
    """A metric that is one number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rank(score: Row) -> tuple[float, float]:
    return score.get("accuracy", -score.get("mae", 1.0)), -score.get("loss", float("inf"))

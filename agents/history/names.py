"""What models are called: which name stands for which record, since when, by whose word and why. Pure.

    tags              one row per name that stands, in order of the alphabet
    tags --history    every record that gave a name or took it away

A name stands for the number of its record wherever one is asked for, and `best` for that of the current model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedssh.history.published import NoRecord
from fedssh.history.table import clock, decimal, few, table
from fedssh.history.totals import headline, source
from fedssh.rules.vocabulary import MAKES_CURRENT

Fields = Mapping[str, Any]
Row = dict[str, Any]
SHOWN = 8  # names in a message
MOVES = ("tagged", "untagged")


def stands_for(totals: Fields, name: str) -> int:
    """The number of the record whose model is called so; of `best`, of the one that made the current model current.

    Raises:
        NoRecord: No model is called so.
    """
    if name == "best":
        return int(totals["made"]["sequence"])
    if name not in totals["names"]:
        known = few(sorted(totals["names"]), SHOWN)
        raise NoRecord(f"no model is called {name[:64]!r}; {f'names are {known}' if known else 'none has a name yet'}")
    return int(totals["names"][name]["of"])


def names_of(totals: Row, number: int) -> list[Row]:
    """The names of the model that a record made current, with who gave each, when and why."""
    same = source(totals, number)
    return [{"tag": tag, **told} for tag, told in sorted(totals["names"].items()) if source(totals, told["of"]) == same]


def tested(totals: Row, number: int, record: Callable[[int], Fields]) -> Row | None:
    """How the model that a record made current did on the test split, as it was recorded last; None where it was not.

    Args:
        record: Looks up a record by its number.
    """
    found = totals["tested"].get(str(source(totals, number)))
    if found is None:
        return None
    from fedssh.rules.figures import assessed

    said, first = record(found["record"]), record(1)
    rule = (first.get("decision") or {}).get("threshold")
    return {
        "times": found["times"],
        "in_all": sum(one["times"] for one in totals["tested"].values()),
        "record": said["sequence"],
        "time": said["time"],
        "examples": said["examples"],
        "metrics": said["metrics"],
        "assessed": assessed(said["metrics"], first.get("class_names"), rule),
    }


def how_often(found: Fields) -> str:
    """How often the test split was used: the oftener, the less it says."""
    times, others = found["times"], found["in_all"] - found["times"]
    told = "scored once" if times == 1 else f"scored {times} times"
    return told + (f", other models {'once' if others == 1 else f'{others} times'}" if others else "")


def tags(totals: Row, record: Callable[[int], Fields], rows: Iterable[Fields] | None = None) -> Row:
    """The names that stand; with every record of names where `rows` are given.

    Args:
        totals: Of the whole history.
        record: Looks up a record by its number.
        rows: All records.
    """
    found = []
    for tag, told in sorted(totals["names"].items()):
        made = record(told["of"])
        current = source(totals, told["of"]) == source(totals, totals["made"]["sequence"])
        model = (made.get("model") or {}).get("sha256")
        found.append({"tag": tag, **told, "score": headline(made.get("metrics")), "model": model, "current": current})
    value: Row = {"names": found}
    if rows is not None:
        value["moves"] = [_move(one) for one in rows if one["event"] in MOVES]
    return value


def _move(record: Fields) -> Row:
    told = {name: record.get(name) for name in ("sequence", "time", "event", "tag", "of", "by", "note")}
    return {"record": told.pop("sequence"), **told}


def text(value: Row) -> str:
    """The same as one table or two."""
    rows = [
        (row["tag"], row["of"], _score(row["score"]), "yes" if row["current"] else "", clock(row["since"]), row["by"],
         row["record"], row["note"])
        for row in value["names"]
    ]  # fmt: skip
    columns = ("NAME", "RECORD", f"{_measure(value['names'])} / LOSS", "CURRENT", "SINCE (UTC)", "BY", "SAID IN", "WHY")
    parts = [table(columns, rows, right=(1, 6)) if rows else "no model has a name: charity tag RECORD NAME\n"]
    if "moves" in value:
        moves = [
            (move["record"], clock(move["time"]), move["event"], move["tag"], move["of"], move["by"], move["note"])
            for move in value["moves"]
        ]
        parts.append(table(("#", "TIME (UTC)", "EVENT", "NAME", "RECORD", "BY", "WHY"), moves, right=(0, 4)))
    return "\n".join(parts)


def of_current(record: Fields) -> Fields:
    """A record, if it made a model current.

    Raises:
        NoRecord: It did not.
    """
    if record["event"] not in MAKES_CURRENT:
        raise NoRecord(f"record {record['sequence']} is {record['event']}, which made no model current")
    return record


def _measure(names: Iterable[Row]) -> str:
    return next(("MAE" for row in names if "mae" in (row["score"] or {})), "ACC")


def _score(score: Row | None) -> str | None:
    return f"{decimal(score.get('accuracy', score.get('mae')))} / {decimal(score.get('loss'))}" if score else None

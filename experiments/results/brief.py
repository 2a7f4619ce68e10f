"""The runs of an experiment in brief: what its page is made from, small enough to lie beside it. Pure.

NAME.json.gz: {"format": 1, "experiment", "engine", "quick", "command", "date",
               "runs": [{"slug", "digest", "settings", "made", "outcome"}, …]}

An outcome's points are columns: version, sequence, clock, examples, bytes and site, and by metric those of `holdout`
and `test`. `last` has all that the last point scores, tables such as its confusion too, in experiments that score the
sites' own models, for then the page shows them. Numbers have `DIGITS` digits after the point.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

DIGITS = 5
SUFFIX = ".json.gz"
_COLUMNS = ("version", "sequence", "clock", "examples", "bytes", "site")
_SPLITS = ("holdout", "test")


def packed(fields: Mapping[str, Any]) -> bytes:
    """The same bytes for the same results.

    Args:
        fields: As in the file `results.json`.
    """
    kept = {key: fields[key] for key in ("format", "experiment", "engine", "quick", "command", "date")}
    tables = any(run["outcome"]["site_scores"] for run in fields["runs"])
    kept["runs"] = [{**run, "outcome": _brief(run["outcome"], tables)} for run in fields["runs"]]
    return gzip.compress(json.dumps(kept, separators=(",", ":")).encode() + b"\n", mtime=0)


def unpacked(content: bytes) -> dict[str, Any]:
    """The reverse, but for what was rounded or left out.

    Raises:
        ValueError, KeyError, TypeError, OSError, EOFError: It is damaged.
    """
    fields: dict[str, Any] = json.loads(gzip.decompress(content))
    return fields | {"runs": [{**run, "outcome": _whole(run["outcome"])} for run in fields["runs"]]}


def _brief(outcome: Mapping[str, Any], tables: bool) -> dict[str, Any]:
    points = outcome["points"]
    columns: dict[str, Any] = {key: _rounded([point[key] for point in points], DIGITS) for key in _COLUMNS}
    columns |= {split: _scores([point[split] for point in points]) for split in _SPLITS}
    if tables:
        columns["last"] = {split: _rounded(points[-1][split], DIGITS) for split in _SPLITS}
    others = {key: value for key, value in outcome.items() if key != "points"}
    return {**_rounded(others, DIGITS), "points": columns}


def _whole(outcome: Mapping[str, Any]) -> dict[str, Any]:
    columns = outcome["points"]
    points = []
    for place in range(len(columns["version"])):
        point = {key: columns[key][place] for key in _COLUMNS}
        point |= {split: {name: of[place] for name, of in columns[split].items()} for split in _SPLITS}
        points.append(point)
    points[-1] |= columns.get("last", {})
    return {**outcome, "points": points}


def _scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By metric a column; tables are left out."""
    names = [name for name, value in scores[-1].items() if value is None or isinstance(value, int | float)]
    return {name: _rounded([one.get(name) for one in scores], DIGITS) for name in names}


def _rounded(value: Any, digits: int) -> Any:
    match value:
        case float():
            return round(value, digits)
        case list() | tuple():
            return [_rounded(one, digits) for one in value]
        case Mapping():
            return {key: _rounded(one, digits) for key, one in value.items()}
    return value

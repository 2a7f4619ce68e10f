"""What a history says so far, as one value for one screen: added up record by record. Pure.

    {"federation", "metric", "records", "last", "status": as the view `status`, "best": as `best`,
     "sites": [{"site", "state", "last", "session", "epoch", "claim", "score", "accepted", "counted", "refused",
       "invalid", "gain": {metric, "loss"} | null}],
     "curve": [{"sequence", "time", "value"}],
     "news": [as the rows of `history`]}

A record here is its own fields plus its `hash` and `signature`, checked by whoever hands it over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fedssh.history import totals
from fedssh.history.contributions import Gains, contributions, metric_of
from fedssh.history.totals import plain
from fedssh.history.views import best, history_row, status
from fedssh.rules.vocabulary import MAKES_CURRENT, VERDICTS

Fields = Mapping[str, Any]
Row = dict[str, Any]

NEWS = 1000  # of the newest records, each is kept as a row
# What the gains are made of.
_GAINS = ("event", "sequence", "site", "plan", "to", "metrics", "current_metrics", "slots", "updates")
_COUNTED = ("accepted", "counted", "refused", "invalid")
QUIET = ("release", "report", "scored", "masks", "garbage", "round-partners", "round-closing", "round-agreed")


class Board:
    """What all records so far say.

    Attributes:
        records: How many there were.
    """

    def __init__(self) -> None:
        self.records = 0
        self._totals: Row | None = None
        self._metric = "accuracy"
        self._sites: dict[str, Row] = {}
        self._curve: list[Row] = []
        self._news: deque[Row] = deque(maxlen=NEWS)
        self._slim: list[Row] = []
        self._gains: Gains | None = None
        self._best: Row | None = None

    def add(self, record: Fields) -> None:
        """Add the next record."""
        event = record["event"]
        self._totals = totals.fold([record], self._totals)
        if event == "genesis":
            self._metric = metric_of(record)
        self._news.append(row := history_row(record))
        if event in (*VERDICTS, "report") and row["session"] is not None:
            before = self._sites.get(record["site"], {}) if event == "report" else {}  # which no score is of
            self._sites[record["site"]] = row | {name: before.get(name) for name in ("claim", "score") if before}
        if event in MAKES_CURRENT:
            value = plain((record.get("metrics") or {}).get(self._metric))
            self._curve.append({"sequence": record["sequence"], "time": record["time"], "value": value})
            self._gains = None
        if event in MAKES_CURRENT or event == "refused":  # whose refused step it was, which may wait
            self._slim.append({name: record[name] for name in _GAINS if name in record})
        self._best = None
        self.records += 1

    def value(self, record: Callable[[int], Fields]) -> Row | None:
        """What there is to show; None before the first record.

        Args:
            record: Looks up one of the records by its number.
        """
        if self._totals is None:
            return None
        if self._gains is None:
            self._gains = contributions(self._slim)
        if self._best is None:
            self._best = best(self._totals, record)
        genesis = self._totals["genesis"]
        return {
            "federation": genesis["federation"],
            "metric": self._metric,
            "records": self.records,
            "last": self._totals["time"],
            "status": status(self._totals),
            "best": self._best,
            "sites": [self._site(row) for row in self._totals["nodes"].values() if row["role"] == "site"],
            "curve": list(self._curve),
            "news": list(self._news),
        }

    def _site(self, row: Row) -> Row:
        newest, gains = self._sites.get(row["site"], {}), self._gains or {}
        return {
            **{name: row[name] for name in ("site", "state", "last")},
            **{name: newest.get(name) for name in ("session", "epoch", "claim", "score")},
            **{name: row[name] for name in _COUNTED},
            "gain": gains.get(row["site"]),
        }

"""A history as experiment trackers take it: runs with parameters, tags, and numbers by step. Pure.

run         `coordinator`, and one for each site by its name
step        the number of the record; its time is the record's
parameters  what was agreed, the same in every run
tags        which federation, up to which record, and `name.TAG`: what models are called, as `charity tags` has it

coordinator   holdout/METRIC   what the model scored that the record made current
              refused/METRIC   what a round's result scored that did not become current
              gain/METRIC      by how much better than the model before
              test/METRIC      what the test split said, where that was recorded
site          claim/METRIC     what it measured itself, of a model that it sent
              score/METRIC     what that scored on the holdout; the mix, under a policy that mixes
              bytes            what it sent for it
              gain/METRIC      of a model of its own
              session/METRIC   what its last model of a session scored there
              there/METRIC     what a release scores there
              share, epsilon   its part in a round's result, and what its privacy has cost
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedssh.history import views
from fedssh.history.contributions import metric_of
from fedssh.history.totals import plain, source
from fedssh.rules.vocabulary import MAKES_CURRENT, VERDICTS

Row = Mapping[str, Any]
COORDINATOR = "coordinator"
LONGEST = 5000  # letters of a parameter; MLflow takes 6,000
_AGREED = (
    "federation", "policy", "gate", "margin", "schedule", "sessions", "rates", "seed", "epochs", "class_names",
    "decision", "site_scores", "evidence", "architecture",
)  # fmt: skip


class Point(NamedTuple):
    """One number.

    Attributes:
        run: Whose.
        metric: Its name.
        value: Finite.
        step: The record's number.
        seconds: The record's time, since 1970.
    """

    run: str
    metric: str
    value: float
    step: int
    seconds: float


@dataclass(frozen=True)
class Told:
    """A history, and what there is to know of the whole of it.

    Attributes:
        genesis: The fields of record 1, with its hash.
        sequence, head: Number and hash of the newest record.
        totals: Of the whole history.
        row: Looks up a record by its number.
        rows: The records above a number, in order.
        at: Is told how many records were looked at.
    """

    genesis: Row
    sequence: int
    head: str
    totals: dict[str, Any]
    row: Callable[[int], Row]
    rows: Callable[[int], Iterable[Row]]
    at: Callable[[int], None]

    def parameters(self) -> dict[str, str]:
        """What was agreed, as texts."""
        said = {name: self.genesis[name] for name in _AGREED if self.genesis.get(name) is not None}
        said |= {f"{of}.{name}": one for of in ("spec", "plan") for name, one in sorted(self.genesis[of].items())}
        texts = {
            name: one if isinstance(one, str) else json.dumps(one) for name, one in said.items() if one is not None
        }
        return {name: text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for name, text in texts.items()}

    def runs(self) -> list[str]:
        """Whose runs there are: the coordinator's, and those of all sites ever enrolled."""
        return [COORDINATOR, *(run_of(one["site"]) for one in self.totals["nodes"].values() if one["role"] == "site")]

    def names(self, run: str) -> dict[str, str]:
        """What models are called, of a site those that came from it."""
        found = {}
        for tag, told in sorted(self.totals["names"].items()):
            maker = self.row(source(self.totals, told["of"])).get("site")
            if run == COORDINATOR or (maker is not None and run_of(maker) == run):
                by = f"record {told['of']}, since {told['since']}, by {told['by']}"
                found[tag] = by + (f": {told['note']}" if told["note"] else "")
        return found

    def is_of(self, sequence: int, head: str) -> bool:
        """Whether this history has a record with that hash, or with one that begins so."""
        return bool(head) and 1 <= sequence <= self.sequence and str(self.row(sequence)["hash"]).startswith(head)

    def points(self, after: int) -> Iterator[Point]:
        """Every number of the records above one."""
        sites, main = set(self.runs()), metric_of(self.genesis)
        for record in self.rows(after):
            yield from (point for point in points(record, main) if point.run in sites)
            self.at(record["sequence"])


def run_of(site: str) -> str:
    """What a site's run is called: as the site, unless it is called as the coordinator's is."""
    return f"{COORDINATOR}_site" if site == COORDINATOR else site


def seconds_of(record: Row) -> float:
    """A record's time, in seconds since 1970."""
    return datetime.datetime.fromisoformat(record["time"]).timestamp()


def points(record: Row, main: str) -> Iterator[Point]:
    """The numbers of one record; `main` is what the federation compares models by first."""
    event, seconds = record["event"], seconds_of(record)
    site = run_of(record["site"]) if isinstance(record.get("site"), str) else None

    def told(run: str, what: str, metrics: object) -> Iterator[Point]:
        for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
            if (number := plain(value)) is not None and math.isfinite(number):
                yield Point(run, f"{what}/{name}", float(number), record["sequence"], seconds)

    def alone(run: str, what: str, value: object) -> Iterator[Point]:
        if (number := plain(value)) is not None and math.isfinite(number):
            yield Point(run, what, float(number), record["sequence"], seconds)

    row = views.history_row(record, main)
    if event in MAKES_CURRENT:
        yield from told(COORDINATOR, "holdout", record.get("metrics"))
        yield from told(COORDINATOR, "gain", row["gain"])
    elif event == "round-refused":
        yield from told(COORDINATOR, "refused", record.get("metrics"))
    elif event == "tested":
        yield from told(COORDINATOR, "test", record["metrics"])
    for part in record.get("updates") or ():
        yield from alone(run_of(part["site"]), "share", part["share"])
    if site is None:
        return
    if event in VERDICTS:
        yield from told(site, "claim", row["claim"])
        yield from told(site, "score", record.get("metrics"))
        yield from told(site, "gain", row["gain"])
        yield from alone(site, "bytes", row["bytes"])
        yield from alone(site, "epsilon", (record.get("privacy") or {}).get("spent"))
    elif event == "report":
        yield from told(site, "session", row["claim"])
    elif event == "scored":
        yield from told(site, "there", record["metrics"])

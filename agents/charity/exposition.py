"""What a coordinator's monitoring reads of her, in Prometheus' text format. Pure: what was seen in, text out.

    # HELP fedssh_waiting_bundles Bundles of a site that wait to be judged.
    # TYPE fedssh_waiting_bundles gauge
    fedssh_waiting_bundles{federation="lungs",site="alice-1"} 2

Format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats) as node_exporter's textfile collector takes it: no
timestamps. Times are seconds since 1970, and everything that grows older is told as a time, so that `time() - …` is
right when nobody writes any more, too. Every series has the label `federation`, so that two coordinators of a host have
none in common: node_exporter refuses all files of its folder then. Counters whose help says "since she was started"
begin again at 0 with the process, as Prometheus expects of counters; all others are those of the history.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedssh.history.totals import plain
from fedssh.rules.vocabulary import VERDICTS

PREFIX = "fedssh_"
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """What there is to tell.

    Attributes:
        totals: Of the whole history, see history/totals.py.
        round: What `status` says of rounds; None under policies without.
        waiting: By site how many bundles wait, and when the oldest came; 0 where no name says a time that can be.
        received: By site, bytes since she was started.
        free: Bytes by folder.
        restarts, troubles: How often the judge was started again, and her work failed.
        door: Whether the door stands that she runs; None where she runs none.
        serving: Whether she works; false until she has looked for work, and at the end.
        started, looked, now: When she began, last looked for work (None before the first time), and this was seen.
        version: Hers.
    """

    totals: Mapping[str, Any]
    round: Mapping[str, Any] | None
    waiting: Mapping[str, tuple[int, float]]
    received: Mapping[str, int]
    free: Mapping[str, int]
    restarts: int
    troubles: int
    door: bool | None
    serving: bool
    started: float
    looked: float | None
    now: float
    version: str


@dataclass(frozen=True)
class Family:
    """All values of one name."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[Labels, float], ...]


def text(seen: Seen) -> str:
    """The whole file."""
    return "".join(map(_text, families(seen)))


def families(seen: Seen) -> list[Family]:
    """Everything that is told, in the order of the file; what there is no value for is left out."""
    totals, made, nodes = seen.totals, seen.totals["made"], seen.totals["nodes"].values()
    of_sites = [node for node in nodes if node["role"] == "site"]
    first, release = totals["genesis"], totals["release"]
    about = {"policy": str(first["policy"]), "version": seen.version}
    verdicts = [
        ({"site": node["site"], "outcome": outcome}, node[outcome])
        for node in of_sites for outcome in (*VERDICTS, "garbage")
    ]  # fmt: skip
    metrics = [({"metric": name}, value) for name, one in (made.get("metrics") or {}).items()
               if (value := plain(one)) is not None]  # fmt: skip
    heard = [(_site(node), at) for node in of_sites if (at := seconds(node["last"])) is not None]
    found = [
        _gauge("info", "Which federation this is, always 1.", [(about, 1)]),
        _gauge("serving", "1 while the coordinator works; 0 while she starts, and once she was stopped.", seen.serving),
        _gauge("start_timestamp_seconds", "When the coordinator was started.", seen.started),
        _gauge("loop_timestamp_seconds", "When she last looked for work; older while she judges.", seen.looked),
        _gauge("written_timestamp_seconds", "When this file was written.", seen.now),
        _gauge("door_up", "1 while the door stands that she runs.", seen.door),
        _counter("judge_restarts_total", "How often her judge was started anew, since she was started.", seen.restarts),
        _counter("troubles_total", "How often her work failed, a full disk for one, since she was started.",
                 seen.troubles),
        _gauge("free_bytes", "What may still be written where a folder lies.",
               [({"folder": name}, value) for name, value in seen.free.items()]),
        _counter("records_total", "Records in the history.", totals["sequence"]),
        _gauge("last_record_timestamp_seconds", "When the newest record was written.", seconds(totals["time"])),
        _gauge("finished", "1 when the federation is finished.", totals["finished"]),
        _gauge("site_enrolled", "1 of a site that may take part, 0 of one that was revoked.",
               [(_site(node), node["state"] == "enrolled") for node in of_sites]),
        _gauge("site_last_heard_timestamp_seconds", "When a site's last bundle or report was judged.", heard),
        _counter("verdicts_total", "What became of a site's bundles; garbage had no readable id.", verdicts),
        _counter("sessions_total", "Sessions that a site has reported to be over.",
                 [(_site(node), node["sessions"]) for node in of_sites]),
        _counter("received_bytes_total", "Bytes of models that were judged and of channels, since she was started.",
                 [({"site": site}, count) for site, count in seen.received.items()]),
        _gauge("waiting_bundles", "Bundles of a site that wait to be judged.",
               [({"site": site}, count) for site, (count, _) in seen.waiting.items()]),
        _gauge("waiting_oldest_timestamp_seconds", "When the oldest of them came.",
               [({"site": site}, oldest) for site, (_, oldest) in seen.waiting.items() if oldest]),
        _gauge("model_record", "The record that made the current model current.", made["sequence"]),
        _gauge("model_timestamp_seconds", "When it became current.", seconds(made["time"])),
        _gauge("model_metric", "What the current model scores on the holdout.", metrics),
        _gauge("release_record", "The record of the newest release.", release["sequence"] if release else None),
        *(_rounds(seen.round) if seen.round else ()),
    ]  # fmt: skip
    return [_of(str(first["federation"]), family) for family in found if family.samples]


def _of(federation: str, family: Family) -> Family:
    told = tuple(({"federation": federation, **labels}, value) for labels, value in family.samples)
    return dataclasses.replace(family, samples=told)


def _rounds(round: Mapping[str, Any]) -> Iterable[Family]:
    now = round["open"] or {}
    yield _counter("rounds_closed_total", "Rounds that have closed.", round["closed"])
    yield _gauge("round_open", "1 while a round is open.", bool(now))
    yield _gauge("round_number", "The number of the open round.", now.get("number"))
    yield _gauge("round_missing_sites", "Sites whose update the open round waits for.",
                 len(now["missing"]) if now else None)  # fmt: skip
    yield _gauge("round_closes_timestamp_seconds", "The open round's deadline.", seconds(now.get("closes")))
    yield _gauge(
        "round_lacks_sites", "How many more sites have to be enrolled before a round can open.", round["lacks"]
    )


def seconds(time: str | None) -> float | None:
    """A record's time in seconds since 1970."""
    return datetime.datetime.fromisoformat(time).timestamp() if time else None


def _site(node: Mapping[str, Any]) -> Labels:
    return {"site": str(node["site"])}


Values = float | None | Iterable[tuple[Labels, float]]


def _gauge(name: str, help: str, values: Values) -> Family:
    return _family(name, "gauge", help, values)


def _counter(name: str, help: str, values: Values) -> Family:
    return _family(name, "counter", help, values)


def _family(name: str, kind: str, help: str, values: Values) -> Family:
    if values is None:
        return Family(PREFIX + name, kind, help, ())
    samples = (({}, values),) if isinstance(values, int | float) else tuple(values)
    return Family(PREFIX + name, kind, help, samples)


def _text(family: Family) -> str:
    lines = [f"# HELP {family.name} {_escaped(family.help)}", f"# TYPE {family.name} {family.kind}"]
    for labels, value in family.samples:
        told = ",".join(f'{name}="{_escaped(one, quotes=True)}"' for name, one in labels.items())
        lines.append(f"{family.name}{{{told}}} {_value(value)}" if told else f"{family.name} {_value(value)}")
    return "\n".join(lines) + "\n"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _value(value: float) -> str:
    """As Go's strconv.ParseFloat reads it."""
    if isinstance(value, int):
        return str(int(value))
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"

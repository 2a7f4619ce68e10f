"""The history as people read it: from ledger records to rows. Pure; standard library only.

A record here is the record's own fields plus its `hash` and `signature`, in the ledger's order. Every view
is a value, which is what `--json` prints; `texts` makes the text that people read. The door's forced command and the
`charity` command show the same views. What tells of the whole history is made from `totals`, not from all records.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fedssh.history import names, work
from fedssh.history.contributions import gain_of
from fedssh.history.published import NoRecord
from fedssh.history.table import decimal, few, number
from fedssh.history.totals import KEPT_RELEASES, fold, headline, plain
from fedssh.history.totals import read as read_summary
from fedssh.rules.vocabulary import MAKES_CURRENT, PLAIN, VERDICTS

Fields = Mapping[str, Any]
Row = dict[str, Any]


class History(Protocol):
    """Where records come from: what the vault has published, or the ledger itself."""

    @property
    def count(self) -> int:
        """The number of the newest record; 0 without any."""

    def row(self, sequence: int) -> Row:
        """One record; raises NoRecord."""

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The records above a number, in order."""


class Asked(NamedTuple):
    """What somebody asks a view about.

    Attributes:
        history: The records.
        numbers: Those of the records that were named.
        totals: Adds up the whole history.
        waiting: How many bundles of each site wait to be judged.
        now: In seconds since 1970.
        options: The verb's own that were given, but for --json.
    """

    history: History
    numbers: Sequence[int]
    totals: Callable[[], Row]
    waiting: Callable[[], Mapping[str, int]]
    now: float
    options: frozenset[str] = frozenset()


def total(history: History, summary: bytes = b"") -> Row:
    """The totals of a whole history, from a summary of its beginning where there is one.

    Raises:
        NoRecord: The history is empty.
    """
    known = read_summary(summary)
    if known and (known["sequence"] > history.count or history.row(known["sequence"])["hash"] != known["hash"]):
        known = None  # of another history
    found = fold(history.rows(known["sequence"] if known else 0), known)
    if found is None:
        raise NoRecord("the history is empty")
    return found


# Views


def history_row(record: Fields, main: str = "accuracy") -> Row:
    """The row of one record; `main` is what the federation compares models by first."""
    reported = record["event"] in PLAIN
    return {
        "sequence": record["sequence"],
        "time": record["time"],
        "event": record["event"],
        "site": record.get("site"),
        "session": record.get("session"),
        "epoch": record.get("epochs") if reported else record.get("epoch"),
        "round": record.get("round"),
        "builds_on": record.get("builds_on"),
        "examples": record.get("examples"),
        # A report's metrics are the site's own; every other record's are measured on the holdout.
        "claim": headline(record.get("metrics" if reported else "claim")),
        "score": None if reported or record["event"] == "tested" else headline(record.get("metrics")),
        "share": record.get("share"),
        "reason": why(record),
        "submission": record.get("submission"),
        "hash": record["hash"],
        **({"work": record["work"]} if "work" in record else {}),
        "bytes": sent(record),
        "gain": gain_of(record, main),
    }


def sent(record: Fields) -> int | None:
    """How many bytes a site sent for its verdict: the model file, unsealed, and what a channel took."""
    file, turn = record.get("candidate") or record.get("model"), record.get("work")
    if record["event"] not in VERDICTS or not (file or turn):
        return None
    return (file["size"] if file else 0) + (turn["received"] if turn else 0)


def why(record: Fields) -> str:
    """A record's reason in words; for events that have none, what there is to know about them."""
    event = record["event"]
    if event.startswith("round-"):
        return _why_round(record)
    if record.get("reason"):
        margin = record.get("margin")  # that an accepted one was found to need, under a parameter-free ladder
        found = f", {margin:.4f}" if isinstance(margin, float) else ""
        took = f"; {work.told(record['work'])}" if record.get("work") else ""
        if event == "rollback":
            return f"back to {record['to']}: {record['reason']}"
        return f"{record['reason']}{found}{took}"
    if event == "genesis":
        return _why_genesis(record)
    if event == "site-added":
        return f"as {record.get('role')} with {fingerprint(record.get('key'))}"
    if event == "release":
        sites = (record.get("federation") or {}).get("sites") or []
        return f"the model of {record.get('of')}, for {few(sites) or 'nobody'}"
    if event == "report" and record.get("passed"):
        return "no new images; the turn passes"
    if event == "report":
        checkpoints, epochs = number(record.get("checkpoints"), "checkpoint"), number(record.get("epochs"), "epoch")
        return f"session over, {checkpoints} in {epochs}"
    if event == "scored":
        return f"what release {record['builds_on']} scores there, on {number(record['examples'], 'image')}"
    if event == "masks":
        return _why_masks(record)
    if event in ("tagged", "untagged"):
        said = f"record {record['of']} is {record['tag']}" if event == "tagged" else f"{record['tag']} is taken away"
        return f"{said}, by {record['by']}" + (f": {record['note']}" if record.get("note") else "")
    if event == "tested":
        scores = ", ".join(f"{name} {decimal(value)}" for name, value in (headline(record["metrics"]) or {}).items())
        return f"the model of {record['of']} on the {record['split']} split, {record['examples']:,} examples: {scores}"
    if event == "rollback":
        return f"back to {record.get('to')}"
    return ""


def _why_masks(record: Fields) -> str:
    advert, late = record.get("advert") or {}, record.get("late") or ()
    words = {
        "advert": f"keys for round {advert.get('round')}",
        "shares": "sealed shares of its secrets",
        "agreed": "its signature on who masked and who came",
        "answer": "what takes the masks off the sum",
    }
    words |= {"advert": "keys for a round"} if "advert" in late else {}
    found = [
        f"{text}{', too late' if name in late else ''}" for name, text in words.items() if name in {*record, *late}
    ]
    return " and ".join(found)


def _why_round(record: Fields) -> str:
    sites, missing = record.get("sites"), record.get("missing")
    asked = f" for {few(sites)}" if sites else ""
    return f"round {record['round']}{asked}: {record['reason']}" + (f"; missing {few(missing)}" if missing else "")


def _why_genesis(record: Fields) -> str:
    name = (record.get("spec") or {}).get("name", "a model")
    trained = "trained on the coordinator's own images" if record.get("epochs", 1) else "as they are"
    if given := record.get("weights"):
        tensors = f"{given['tensors']} of {given['of']} tensors"
        return f"{name}, {tensors} from given weights {given['sha256'][:16]}…, {trained}"
    return f"{name}, random weights {trained}"


def show(record: Fields) -> Row:
    """Everything one record says."""
    return dict(record)


def diff(one: Fields, two: Fields) -> Row:
    """Two records side by side: scores with their difference, then every other field that is not the same."""
    scores = {}
    for name in ordered(one.get("metrics") or {}, two.get("metrics") or {}):
        before, after = (plain((record.get("metrics") or {}).get(name)) for record in (one, two))
        if before is not None or after is not None:
            change = None if before is None or after is None else after - before
            change = None if change is None or not math.isfinite(change) else change  # of a site's own report
            scores[name] = {"first": before, "second": after, "change": change}
    fields = {}
    for name in ordered(one, two):
        if name not in ("sequence", "previous", "hash", "signature", "metrics") and one.get(name) != two.get(name):
            fields[name] = {"first": one.get(name), "second": two.get(name)}
    return {"first": one["sequence"], "second": two["sequence"], "scores": scores, "fields": fields}


_MADE_OF = (
    "site", "session", "epoch", "examples", "share", "staleness", "round", "updates", "missing", "weights", "epochs",
)  # fmt: skip


def best(totals: Row, record: Callable[[int], Fields], history: History | None = None, of: int | None = None) -> Row:
    """The current model, or an earlier one: what made it current, what it is made of, and what it gained.

    Args:
        totals: Of the whole history.
        record: Looks up a record by its number.
        history: All records, for an earlier one.
        of: The record that made that one current.

    Raises:
        NoRecord: There is none of that number, or it made no model current.
    """
    made, genesis = totals["made"], totals["genesis"]
    now = {"releases": totals["releases"], "judged_since": totals["judged_since"], "until": None}
    if of is not None and of != made["sequence"]:
        assert history is not None, "what came of an earlier one is not in the totals"
        made = names.of_current(record(of))
        now = _while_current(history.rows(of), of)
    source = made
    while source["event"] == "rollback":
        source = record(source["to"])
    return {
        "sequence": made["sequence"],
        "event": made["event"],
        "since": made["time"],
        **{name: source.get(name) for name in _MADE_OF},
        **{name: source[name] for name in ("slots", "work") if name in source},
        "policy": genesis["policy"],
        "claim": headline(source.get("claim")),
        "metrics": made.get("metrics"),
        "genesis": headline(genesis["metrics"]),
        "model": made.get("model"),
        "architecture": made.get("architecture") or genesis["architecture"],
        "reason": why(made),
        **now,
        "names": names.names_of(totals, made["sequence"]),
        "tested": names.tested(totals, made["sequence"], record),
        "holdout": _assessed(made.get("metrics") or {}, record),
    }


def _while_current(rows: Iterator[Fields], of: int) -> Row:
    """What happened from after a model became current until another one did."""
    releases, judged, until = [], 0, None
    for row in rows:
        judged += row["event"] in VERDICTS
        if row["event"] in MAKES_CURRENT:
            until = row["sequence"]
            break
        if row["event"] == "release" and row["of"] == of:
            releases.append(row["sequence"])
    return {"releases": releases[-KEPT_RELEASES:], "judged_since": judged, "until": until}


def _assessed(metrics: Fields, record: Callable[[int], Fields]) -> Row | None:
    """What scores say of each class, with intervals."""
    if not metrics.get("confusion"):
        return None
    from fedssh.rules.figures import assessed

    first = record(1)
    return assessed(metrics, first.get("class_names"), (first.get("decision") or {}).get("threshold"))


def scores(history: History) -> Row:
    """What each release scores at the sites by their own word, beside the holdout; whoever said two is at the later."""
    first = history.row(1)
    releases: dict[int, Row] = {}
    sites: dict[str, None] = {}
    for record in history.rows():
        if record["event"] == "release":
            releases[record["sequence"]] = {
                "release": record["sequence"], "of": record["of"], "holdout": _as_used(record["metrics"]), "sites": {},
            }  # fmt: skip
        elif record["event"] == "scored" and record["builds_on"] in releases:
            sites.setdefault(record["site"])
            said = {"examples": record["examples"], **record["metrics"], "record": record["sequence"]}
            releases[record["builds_on"]]["sites"][record["site"]] = said
    return {
        "agreed": first.get("site_scores") == "on",
        "metric": "balanced_accuracy" if first["plan"].get("metric") == "balanced_accuracy" else "accuracy",
        "sites": list(sites),
        "releases": [row for row in releases.values() if row["sites"]],
    }


def _as_used(metrics: Fields) -> Row:
    """Accuracy and balanced accuracy on the holdout: at the threshold, where a table tells of it."""
    found = {name: metrics.get(name) for name in ("accuracy", "balanced_accuracy")}
    if not metrics.get("confusion_at_threshold"):
        return found
    from fedssh.rules.figures import shares

    table = metrics["confusion_at_threshold"]
    whole, mean, *_ = shares(table, [str(label) for label in range(len(table))])
    return {"accuracy": whole["value"], "balanced_accuracy": mean["value"]}


def privacy(history: History) -> Row:
    """What each site has spent of its privacy by its newest verdict, and what one more session like that one costs."""
    agreed, rows = history.row(1)["plan"].get("privacy"), dict[str, Row]()
    for record in history.rows():
        if record["event"] == "site-added" and record["role"] == "site":
            rows.setdefault(record["site"], {"site": record["site"], "state": "enrolled", "sessions": 0, "spent": 0.0,
                                             "budget": None, "left": None, "price": None, "rate": None})  # fmt: skip
        if record["event"] in ("site-added", "site-revoked") and record["site"] in rows:
            rows[record["site"]]["state"] = "enrolled" if record["event"] == "site-added" else "revoked"
        if (said := record.get("privacy")) is None:
            continue
        row = rows[record["site"]]
        spent, budget = said["spent"], said["budget"]
        row |= {"spent": spent, "budget": budget, "rate": said["rate"], "sessions": row["sessions"] + 1}
        row |= {"left": round(budget - spent, 4), "price": round(said["next"] - spent, 4)}
        if row["state"] != "revoked":
            row["state"] = "spent" if said["next"] > budget else "enrolled"
    return {"agreed": agreed, "sites": list(rows.values()) if agreed else []}


def nodes(totals: Row) -> list[Row]:
    """One row per site or auditor ever enrolled, in order of first enrolment."""
    return [{**row, "key": fingerprint(row["key"])} for row in totals["nodes"].values()]


def status(totals: Row, waiting: Mapping[str, int] | None = None, now: float = 0.0) -> Row:
    """Where the federation stands.

    Args:
        totals: Of the whole history.
        waiting: How many bundles of each site wait to be judged, where the caller can see the inbox.
        now: In seconds since 1970.
    """
    first, made = totals["genesis"], totals["made"]
    enrolled = [row for row in totals["nodes"].values() if row["state"] == "enrolled"]
    sites = [row["site"] for row in enrolled if row["role"] == "site"]
    released = totals["release"] or {"sequence": None, "turn": None}
    return {
        "federation": first["federation"],
        "state": "finished" if totals["finished"] else "open",
        "schedule": first["schedule"],
        "policy": first["policy"],
        "gate": first["gate"],
        "margin": first["margin"],
        "rates": first["rates"],
        "turn": released["turn"],
        "sessions": totals["sessions"],
        "rounds": _rounds(totals, len(sites)),
        "sites": sites,
        "auditors": [row["site"] for row in enrolled if row["role"] != "site"],
        "current": {
            "sequence": made["sequence"],
            "site": made.get("site"),
            "round": made.get("round"),
            "score": headline(made.get("metrics")),
        },
        "genesis": headline(first["metrics"]),
        "release": released["sequence"],
        **({"names": {tag: told["of"] for tag, told in sorted(totals["names"].items())}} if totals["names"] else {}),
        **totals["judged"],
        "garbage": totals["garbage"],
        **({"work": totals["work"]} if totals.get("work") else {}),
        "waiting": dict(waiting or {}),
        "held": _held(totals, waiting or {}, now),
        "records": totals["sequence"],
        "head": totals["hash"],
        "last": totals["time"],
    }


# Verb: its view. `history` is no value but a stream, `verify` and `help` look at other things.
VIEWS: dict[str, Callable[[Asked], Any]] = {
    "show": lambda asked: show(asked.history.row(asked.numbers[0])),
    "diff": lambda asked: diff(*map(asked.history.row, asked.numbers)),
    "best": lambda asked: best(asked.totals(), asked.history.row, asked.history, *asked.numbers),
    "tags": lambda asked: _tags(asked),
    "scores": lambda asked: scores(asked.history),
    "privacy": lambda asked: privacy(asked.history),
    "sites": lambda asked: _sites(asked.history),
    "nodes": lambda asked: nodes(asked.totals()),
    "status": lambda asked: status(asked.totals(), asked.waiting(), asked.now),
}


def _tags(asked: Asked) -> Row:
    every = asked.history.rows() if "--history" in asked.options else None
    return names.tags(asked.totals(), asked.history.row, every)


def _sites(history: History) -> Row:
    from fedssh.history.sites import sites  # with the statistics, which no other verb needs

    return sites(history.rows())


def _rounds(totals: Row, sites: int) -> Row | None:
    if totals["rounds"] is None:
        return None
    from fedssh.history.rounds import rounds

    return rounds(totals["rounds"], totals["genesis"]["policy"], sites)


def _held(totals: Row, waiting: Mapping[str, int], now: float) -> dict[str, int]:
    """For how many seconds what waits of a site will wait because the site is above a rate."""
    if not totals["used"]:
        return {}
    from fedssh.rules import rates

    agreed = rates.agreed(totals["genesis"])
    found = {site: max(rates.waits(totals["used"].get(site, rates.NEVER), now, agreed)) for site in waiting}
    return {site: math.ceil(seconds) for site, seconds in found.items() if waiting[site] and seconds}


# Parts of records


def fingerprint(key: object) -> str:
    """`SHA256:…` of an OpenSSH public key line, as `ssh-keygen -l` prints it."""
    try:
        digest = hashlib.sha256(base64.b64decode(str(key).split()[1], validate=True)).digest()
    except (IndexError, ValueError):
        return "–"
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def ordered(one: Fields, two: Fields) -> list[str]:
    """The names of both, the first one's first."""
    return [*one, *(name for name in two if name not in one)]

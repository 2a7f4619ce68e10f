"""The history as people read it: from ledger records to rows. Pure; standard library only.

A record here is the record's own fields plus its `hash` and `signature`, in the ledger's order. Every view
is a value, which is what `--json` prints; `texts` makes the text that people read. The door's forced command and the
`charity` command show the same views.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from agents.charity.layout import few, number

Fields = Mapping[str, Any]
Row = dict[str, Any]

JUDGED = ("accepted", "refused", "counted", "invalid")
MAKES_CURRENT = ("genesis", "accepted", "round-accepted", "rollback")


class NoRecord(LookupError):
    """The history has no record of that number, or none at all."""


# Records from ledger lines


def read(lines: Iterable[bytes]) -> list[Row]:
    """The records of ledger lines; a last line without its newline is still being written and left out."""
    records = []
    for line in lines:
        if not line.endswith(b"\n"):
            break
        whole = json.loads(line)
        records.append(json.loads(whole["record"]) | {"hash": whole["hash"], "signature": whole["signature"]})
    return records


def export(lines: Iterable[bytes], after: int = 0) -> Iterator[bytes]:
    """The whole lines of records above `after`, with every letter beyond ASCII escaped: the same JSON values."""
    for line in lines:
        if line.endswith(b"\n"):
            whole = json.loads(line)
            if whole["sequence"] > after:
                yield escaped(json.dumps(whole, separators=(",", ":"), sort_keys=True)).encode() + b"\n"


def escaped(text: str) -> str:
    """JSON in ASCII without the one letter of it that a terminal acts on."""
    return text.replace("\x7f", "\\u007f")


# Views


def history(records: Sequence[Fields], last: int | None = None) -> list[Row]:
    """One row per record, oldest first; `last` keeps only the newest."""
    chosen = records if last is None else records[max(0, len(records) - last) :]
    return [_history_row(record) for record in chosen]


def _history_row(record: Fields) -> Row:
    reported = record["event"] == "report"
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
        "claim": _headline(record.get("metrics" if reported else "claim")),
        "score": None if reported else _headline(record.get("metrics")),
        "share": record.get("share"),
        "reason": why(record),
        "submission": record.get("submission"),
        "hash": record["hash"],
    }


def why(record: Fields) -> str:
    """A record's reason in words; for events that have none, what there is to know about them."""
    event = record["event"]
    if event.startswith("round-"):
        return _why_round(record)
    if record.get("reason"):
        return f"back to {record['to']}: {record['reason']}" if event == "rollback" else str(record["reason"])
    if event == "genesis":
        return _why_genesis(record)
    if event == "site-added":
        return f"as {record.get('role')} with {fingerprint(record.get('key'))}"
    if event == "release":
        sites = (record.get("federation") or {}).get("sites") or []
        return f"the model of {record.get('of')}, for {few(sites) or 'nobody'}"
    if event == "report":
        checkpoints, epochs = number(record.get("checkpoints"), "checkpoint"), number(record.get("epochs"), "epoch")
        return f"session over, {checkpoints} in {epochs}"
    if event == "rollback":
        return f"back to {record.get('to')}"
    return ""


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


def show(records: Sequence[Fields], sequence: int) -> Row:
    """Everything one record says."""
    return dict(_record(records, sequence))


def diff(records: Sequence[Fields], first: int, second: int) -> Row:
    """Two records side by side: scores with their difference, then every other field that is not the same."""
    one, two = _record(records, first), _record(records, second)
    scores = {}
    for name in ordered(one.get("metrics") or {}, two.get("metrics") or {}):
        before, after = (plain((record.get("metrics") or {}).get(name)) for record in (one, two))
        if before is not None or after is not None:
            change = None if before is None or after is None else after - before
            scores[name] = {"first": before, "second": after, "change": change}
    fields = {}
    for name in ordered(one, two):
        if name not in ("sequence", "previous", "hash", "signature", "metrics") and one.get(name) != two.get(name):
            fields[name] = {"first": one.get(name), "second": two.get(name)}
    return {"first": first, "second": second, "scores": scores, "fields": fields}


_MADE_OF = (
    "site", "session", "epoch", "examples", "share", "staleness", "round", "updates", "missing", "weights", "epochs",
)  # fmt: skip


def best(records: Sequence[Fields]) -> Row:
    """The current model: the record that made it current, what it is made of, and what it gained."""
    made = current(records)
    source = made
    while source["event"] == "rollback":
        source = _record(records, source["to"])
    releases = [record for record in records if record["event"] == "release" and record["of"] == made["sequence"]]
    first = _headline(records[0].get("metrics"))
    return {
        "sequence": made["sequence"],
        "event": made["event"],
        "since": made["time"],
        **{name: source.get(name) for name in _MADE_OF},
        "policy": records[0].get("policy"),
        "claim": _headline(source.get("claim")),
        "metrics": made.get("metrics"),
        "genesis": first,
        "model": made.get("model"),
        "architecture": made.get("architecture") or records[0].get("architecture"),
        "reason": why(made),
        "releases": [record["sequence"] for record in releases],
        "judged_since": sum(record["event"] in JUDGED and record["sequence"] > made["sequence"] for record in records),
    }


_UNHEARD: Row = {**dict.fromkeys(JUDGED, 0), "sessions": 0, "best": None, "round": None, "last": None}


def nodes(records: Sequence[Fields]) -> list[Row]:
    """One row per site or auditor ever enrolled, in order of first enrolment."""
    rows: dict[str, Row] = {}
    for record in records:
        event, name = record["event"], record.get("site")
        if event == "site-added":
            row = rows.setdefault(str(name), {"site": name} | _UNHEARD)
            row |= {"role": record.get("role"), "key": fingerprint(record.get("key"))}
            row |= {"state": "enrolled", "since": record["time"]}
        if isinstance(name, str) and name in rows:
            _hear(rows[name], record)
    return list(rows.values())


def _hear(row: Row, record: Fields) -> None:
    """What one record adds to the row of the site that it is about."""
    event = record["event"]
    if event == "site-revoked":
        row |= {"state": "revoked", "since": record["time"]}
    elif event in JUDGED or event == "report":
        row["sessions" if event == "report" else event] += 1
        row["last"] = record["time"]
    if event == "counted":
        row["round"] = record.get("round")  # the last in which it took part
    if event == "accepted":
        score = _headline(record.get("metrics"))
        if score and (row["best"] is None or _rank(score) > _rank(row["best"])):
            row["best"] = score


def status(records: Sequence[Fields], waiting: Mapping[str, int] | None = None) -> Row:
    """Where the federation stands.

    Args:
        records: The whole history.
        waiting: How many bundles of each site wait to be judged, where the caller can see the inbox.
    """
    first, made = _first(records), current(records)
    releases = [record for record in records if record["event"] == "release"]
    told = (releases[-1].get("federation") if releases else None) or {}
    closing = [record for record in records if record["event"] in ("finished", "reopened")]
    agreed = next((record for record in reversed(records) if record["event"] == "reopened"), first)
    enrolled = [row for row in nodes(records) if row["state"] == "enrolled"]
    sites = [row["site"] for row in enrolled if row["role"] == "site"]
    return {
        "federation": first.get("federation"),
        "state": "finished" if closing and closing[-1]["event"] == "finished" else "open",
        "schedule": first.get("schedule"),
        "policy": first.get("policy"),
        "gate": first.get("gate"),
        "margin": first.get("margin"),
        "turn": told.get("turn"),
        "sessions": agreed.get("sessions"),
        "rounds": _rounds(records, len(sites)),
        "sites": sites,
        "auditors": [row["site"] for row in enrolled if row["role"] != "site"],
        "current": {
            "sequence": made["sequence"],
            "site": made.get("site"),
            "round": made.get("round"),
            "score": _headline(made.get("metrics")),
        },
        "genesis": _headline(first.get("metrics")),
        "release": releases[-1]["sequence"] if releases else None,
        **{event: sum(record["event"] == event for record in records) for event in JUDGED},
        "waiting": dict(waiting or {}),
        "records": len(records),
        "head": records[-1]["hash"],
        "last": records[-1]["time"],
    }


def _rounds(records: Sequence[Fields], sites: int) -> Row | None:
    if records[0].get("schedule") != "rounds":
        return None
    # The rules of rounds cost the door 15 ms, so only where there are any.
    from agents.charity.round_views import rounds

    return rounds(records, sites)


def current(records: Sequence[Fields]) -> Fields:
    """The record that made the current model current."""
    _first(records)
    return next(record for record in reversed(records) if record["event"] in MAKES_CURRENT)


# Parts of records


def fingerprint(key: object) -> str:
    """`SHA256:…` of an OpenSSH public key line, as `ssh-keygen -l` prints it."""
    try:
        digest = hashlib.sha256(base64.b64decode(str(key).split()[1], validate=True)).digest()
    except (IndexError, ValueError):
        return "–"
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def plain(value: object) -> float | None:
    """A metric that is one number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def ordered(one: Fields, two: Fields) -> list[str]:
    """The names of both, the first one's first."""
    return [*one, *(name for name in two if name not in one)]


def _headline(metrics: object) -> Row | None:
    """Accuracy and loss of a metrics object; None when it has neither."""
    if not isinstance(metrics, dict):
        return None
    found = {name: metrics[name] for name in ("accuracy", "loss") if plain(metrics.get(name)) is not None}
    return found or None


def _rank(score: Row) -> tuple[float, float]:
    return score.get("accuracy", -1.0), -score.get("loss", float("inf"))


def _first(records: Sequence[Fields]) -> Fields:
    if not records:
        raise NoRecord("the history is empty")
    return records[0]


def _record(records: Sequence[Fields], sequence: int) -> Fields:
    for record in records[max(0, sequence - 1) :][:1]:
        if record["sequence"] == sequence:
            return record
    raise NoRecord(f"the history has no record {sequence}; it ends with {len(records)}")

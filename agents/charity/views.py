"""The history as people read it: from ledger records to rows, and from rows to text. Pure; standard library only.

A record here is the record's own fields plus its `hash` and `signature`, in the ledger's order. Every view
is first a value (what `--json` prints), then text made from that value. The door's forced command and the
`charity` command show the same views.

Strings in a record may come from a site, so text goes through `printable` before it reaches a terminal.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Fields = Mapping[str, Any]
Row = dict[str, Any]

JUDGED = ("accepted", "refused", "invalid")
MAKES_CURRENT = ("genesis", "accepted", "rollback")

HELP = """\
history [--last N]                 every event: who sent what, what it claimed, what it scored, the verdict and why
history --export [--after SEQ]     the signed records themselves, one JSON line each
show N                             everything record N says
diff A B                           what changed from record A to record B
best                               the current model: where it comes from and what it scores
nodes                              the sites and auditors, and what each has sent
status                             where the federation stands
verify                             check every hash, link and signature of the history
help                               this page

Each also with --json. Sites further have, for their programs or by hand:
scp -O FILE.bundle HOST:           send one bundle
verdict [--wait SECONDS] ID        the signed verdict on it
release [--after SEQ] [--wait SECONDS] > FILE.bundle    the newest release

Exit codes: 0 done, 1 the door failed, 2 not a verb, 3 refused, 4 nothing yet or try again later
Example: ssh HOST history --last 20
"""

FORMS: dict[str, tuple[dict[str, bool], int, str]] = {
    # verb: (option: whether it takes a number, how many numbers follow, the form)
    "history": ({"--json": False, "--export": False, "--after": True, "--last": True}, 0,
                "history [--json] [--last N] | history --export [--after SEQ]"),
    "show": ({"--json": False}, 1, "show [--json] N"),
    "diff": ({"--json": False}, 2, "diff [--json] A B"),
    "best": ({"--json": False}, 0, "best [--json]"),
    "nodes": ({"--json": False}, 0, "nodes [--json]"),
    "status": ({"--json": False}, 0, "status [--json]"),
    "verify": ({"--json": False}, 0, "verify [--json]"),
    "help": ({"--json": False}, 0, "help [--json]"),
}  # fmt: skip


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
                yield _escaped(json.dumps(whole, separators=(",", ":"), sort_keys=True)).encode() + b"\n"


# Views: values


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
        "builds_on": record.get("builds_on"),
        "examples": record.get("examples"),
        # A report's metrics are the site's own; every other record's are measured on the holdout.
        "claim": _headline(record.get("metrics" if reported else "claim")),
        "score": None if reported else _headline(record.get("metrics")),
        "reason": why(record),
        "submission": record.get("submission"),
        "hash": record["hash"],
    }


def why(record: Fields) -> str:
    """A record's reason in words; for events that have none, what there is to know about them."""
    event = record["event"]
    if record.get("reason"):
        return f"back to {record['to']}: {record['reason']}" if event == "rollback" else str(record["reason"])
    if event == "genesis":
        spec = record.get("spec") or {}
        return f"{spec.get('name', 'a model')}, random weights trained on the coordinator's own images"
    if event == "site-added":
        return f"as {record.get('role')} with {fingerprint(record.get('key'))}"
    if event == "release":
        sites = (record.get("federation") or {}).get("sites") or []
        return f"the model of {record.get('of')}, for {', '.join(map(str, sites)) or 'nobody'}"
    if event == "report":
        checkpoints, epochs = _number(record.get("checkpoints"), "checkpoint"), _number(record.get("epochs"), "epoch")
        return f"session over, {checkpoints} in {epochs}"
    if event == "rollback":
        return f"back to {record.get('to')}"
    return ""


def show(records: Sequence[Fields], sequence: int) -> Row:
    """Everything one record says."""
    return dict(_record(records, sequence))


def diff(records: Sequence[Fields], first: int, second: int) -> Row:
    """Two records side by side: scores with their difference, then every other field that is not the same."""
    one, two = _record(records, first), _record(records, second)
    scores = {}
    for name in _ordered(one.get("metrics") or {}, two.get("metrics") or {}):
        before, after = (_value((record.get("metrics") or {}).get(name)) for record in (one, two))
        if before is not None or after is not None:
            change = None if before is None or after is None else after - before
            scores[name] = {"first": before, "second": after, "change": change}
    fields = {}
    for name in _ordered(one, two):
        if name not in ("sequence", "previous", "hash", "signature", "metrics") and one.get(name) != two.get(name):
            fields[name] = {"first": one.get(name), "second": two.get(name)}
    return {"first": first, "second": second, "scores": scores, "fields": fields}


def best(records: Sequence[Fields]) -> Row:
    """The current model: the record that made it current, the one it comes from, and what it gained."""
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
        "site": source.get("site"),
        "session": source.get("session"),
        "epoch": source.get("epoch"),
        "examples": source.get("examples"),
        "claim": _headline(source.get("claim")),
        "metrics": made.get("metrics"),
        "genesis": first,
        "model": made.get("model"),
        "architecture": made.get("architecture") or records[0].get("architecture"),
        "reason": why(made),
        "releases": [record["sequence"] for record in releases],
        "judged_since": sum(record["event"] in JUDGED and record["sequence"] > made["sequence"] for record in records),
    }


_UNHEARD: Row = {"accepted": 0, "refused": 0, "invalid": 0, "sessions": 0, "best": None, "last": None}


def nodes(records: Sequence[Fields]) -> list[Row]:
    """One row per site or auditor ever enrolled, in order of first enrolment."""
    rows: dict[str, Row] = {}
    for record in records:
        event, name = record["event"], record.get("site")
        if event == "site-added":
            row = rows.setdefault(str(name), {"site": name} | _UNHEARD)
            row |= {"role": record.get("role"), "key": fingerprint(record.get("key"))}
            row |= {"state": "enrolled", "since": record["time"]}
        if not isinstance(name, str) or name not in rows:
            continue
        row = rows[name]
        if event == "site-revoked":
            row |= {"state": "revoked", "since": record["time"]}
        elif event in JUDGED or event == "report":
            row["sessions" if event == "report" else event] += 1
            row["last"] = record["time"]
        if event == "accepted":
            score = _headline(record.get("metrics"))
            if score and (row["best"] is None or _rank(score) > _rank(row["best"])):
                row["best"] = score
    return list(rows.values())


def status(records: Sequence[Fields], waiting: Mapping[str, int] | None = None) -> Row:
    """Where the federation stands.

    Args:
        records: The whole history.
        waiting: How many bundles of each site wait to be judged, where the caller can see the inbox.
    """
    first, made = _first(records), current(records)
    releases = [record for record in records if record["event"] == "release"]
    told = (releases[-1].get("federation") if releases else None) or {}
    closing = [record["event"] for record in records if record["event"] in ("finished", "reopened")]
    counts = {event: sum(record["event"] == event for record in records) for event in JUDGED}
    enrolled = [row for row in nodes(records) if row["state"] == "enrolled"]
    return {
        "federation": first.get("federation"),
        "state": "finished" if closing[-1:] == ["finished"] else "open",
        "schedule": first.get("schedule"),
        "policy": first.get("policy"),
        "turn": told.get("turn"),
        "sessions": told.get("sessions", first.get("sessions")),
        "sites": [row["site"] for row in enrolled if row["role"] == "site"],
        "auditors": [row["site"] for row in enrolled if row["role"] != "site"],
        "current": {"sequence": made["sequence"], "site": made.get("site"), "score": _headline(made.get("metrics"))},
        "genesis": _headline(first.get("metrics")),
        "release": releases[-1]["sequence"] if releases else None,
        **counts,
        "waiting": dict(waiting or {}),
        "records": len(records),
        "head": records[-1]["hash"],
        "last": records[-1]["time"],
    }


def current(records: Sequence[Fields]) -> Fields:
    """The record that made the current model current."""
    _first(records)
    return next(record for record in reversed(records) if record["event"] in MAKES_CURRENT)


# Views: text


def history_text(rows: Sequence[Row]) -> str:
    """The history as a table."""
    columns = ("#", "TIME (UTC)", "EVENT", "SITE", "SESSION", "EPOCH", "CLAIMED ACC / LOSS", "SCORED ACC / LOSS", "WHY")
    return table(
        columns,
        [
            (row["sequence"], clock(row["time"]), row["event"], row["site"], row["session"], row["epoch"],
             _pair(row["claim"]), _pair(row["score"]), row["reason"])
            for row in rows
        ],
        right=(0, 4, 5),
    )  # fmt: skip


def show_text(record: Row) -> str:
    """One record as lines of name and value."""
    lines = [(name, clock(value) if name == "time" else _words(name, value)) for name, value in _flat(record)]
    return _lines(lines)


def diff_text(change: Row) -> str:
    """Two records side by side as two tables."""
    first, second = f"RECORD {change['first']}", f"RECORD {change['second']}"
    scores = [
        (name, _decimal(pair["first"]), _decimal(pair["second"]),
         "–" if pair["change"] is None else f"{pair['change']:+.4f}")
        for name, pair in change["scores"].items()
    ]  # fmt: skip
    fields = []
    for name, pair in change["fields"].items():
        one, two = dict(_flat({name: pair["first"]})), dict(_flat({name: pair["second"]}))
        fields += [(key, one.get(key), two.get(key)) for key in _ordered(one, two) if one.get(key) != two.get(key)]
    cells = [(name, _short(_words(name, one)), _short(_words(name, two))) for name, one, two in fields]
    parts = [table(("SCORE", first, second, "CHANGE"), scores, right=(1, 2, 3))] if scores else []
    parts += [table(("FIELD", first, second), cells)] if cells else []
    return "\n".join(parts) or f"records {change['first']} and {change['second']} say the same\n"


def best_text(value: Row) -> str:
    """The current model as lines of name and value."""
    site = value["site"]
    if site:
        origin = f"{site}, session {value['session']}, epoch {value['epoch']}, trained on {value['examples']} images"
    else:
        origin = "the coordinator's own first epoch"
    metrics = value["metrics"] or {}
    lines = [
        ("model", (value["model"] or {}).get("sha256")),
        ("from", origin),
        (
            "current since",
            f"{clock(value['since'])}, by record {value['sequence']}, {value['event']}: {value['reason']}",
        ),
        ("released as", ", ".join(map(str, value["releases"])) or "not released yet"),
        ("claimed", _named(value["claim"])),
        ("scored", _named({name: metrics[name] for name in metrics if _value(metrics[name]) is not None})),
        ("genesis scored", _named(value["genesis"])),
        ("judged since", _number(value["judged_since"], "submission")),
    ]
    tables = [name for name in ("per_class_accuracy", "confusion") if metrics.get(name)]
    return _lines([*lines, *((f"scored {name}", _words(name, metrics[name])) for name in tables)])


def nodes_text(rows: Sequence[Row]) -> str:
    """Sites and auditors as a table."""
    columns = ("SITE", "ROLE", "STATE", "SINCE (UTC)", "ACCEPTED", "REFUSED", "INVALID", "SESSIONS", "BEST ACC / LOSS",
               "LAST HEARD (UTC)", "KEY")  # fmt: skip
    return table(
        columns,
        [
            (row["site"], row["role"], row["state"], clock(row["since"]), row["accepted"], row["refused"],
             row["invalid"], row["sessions"], _pair(row["best"]), clock(row["last"]), row["key"])
            for row in rows
        ],
        right=(4, 5, 6, 7),
    )  # fmt: skip


def status_text(value: Row) -> str:
    """Where the federation stands, as lines of name and value."""
    made = value["current"]
    waiting = ", ".join(f"{count} of {site}" for site, count in sorted(value["waiting"].items()) if count)
    sessions = "without end" if value["sessions"] is None else _number(value["sessions"], "session") + " per site"
    turn = f", {value['turn']} has its turn" if value["turn"] else ""
    return _lines(
        [
            ("federation", f"{value['federation']}, {value['state']}"),
            ("schedule", f"{value['schedule']}, {sessions}{turn}"),
            ("policy", value["policy"]),
            ("sites", ", ".join(map(str, value["sites"])) or "none yet"),
            ("auditors", ", ".join(map(str, value["auditors"])) or "none"),
            ("current model", f"record {made['sequence']}" + (f" by {made['site']}" if made["site"] else "")),
            ("scored", _named(made["score"])),
            ("genesis scored", _named(value["genesis"])),
            ("newest release", value["release"]),
            ("judged", ", ".join(f"{value[event]} {event}" for event in JUDGED)),
            ("waiting", waiting or "nothing"),
            ("history", f"{_number(value['records'], 'record')}, the last at {clock(value['last'])}"),
            ("head", value["head"]),
        ]
    )


def verify_text(value: Row) -> str:
    """That the history is sound, in one sentence."""
    return f"{_number(value['records'], 'record')}: every hash, link and signature is right; head {value['head']}\n"


TEXTS: dict[str, Callable[[Any], str]] = {
    "history": history_text,
    "show": show_text,
    "diff": diff_text,
    "best": best_text,
    "nodes": nodes_text,
    "status": status_text,
    "verify": verify_text,
    "help": lambda value: HELP,
}


def to_json(value: object) -> str:
    """A value as indented ASCII JSON; nothing in it can act on a terminal."""
    return _escaped(json.dumps(value, indent=2)) + "\n"


def help_value() -> Row:
    """The verbs for reading, each with its form."""
    return {verb: form for verb, (_, _, form) in FORMS.items()}


# Words, numbers and tables


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Aligned plain text with a heading; `right` are the columns that align to the right."""
    cells = [tuple(columns), *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = []
    for row in cells:
        padded = (cell.rjust(width) if column in right else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """A text with everything escaped that a terminal would act on or not show: controls, direction marks."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def fingerprint(key: object) -> str:
    """`SHA256:…` of an OpenSSH public key line, as `ssh-keygen -l` prints it."""
    try:
        digest = hashlib.sha256(base64.b64decode(str(key).split()[1], validate=True)).digest()
    except (IndexError, ValueError):
        return "–"
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def clock(time: object) -> str:
    """`2026-01-31T12:00:00.123Z` as `2026-01-31 12:00:00`."""
    return "–" if time is None else str(time)[:19].replace("T", " ")


def _cell(value: object) -> str:
    return "–" if value is None or value == "" else printable(str(value))


def _lines(pairs: Iterable[tuple[str, object]]) -> str:
    known = [(printable(name), _cell(value)) for name, value in pairs]
    width = max((len(name) for name, _ in known), default=0)
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in known)


def _flat(record: Fields) -> Iterator[tuple[str, Any]]:
    """Fields with those of nested objects beside them: `model.sha256`."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{inner}", child) for inner, child in _flat(value))
        else:
            yield name, value


def _words(name: str, value: object) -> str | None:
    """A field's value in one line."""
    if value is None:
        return None
    if name == "key" or name.endswith((".key", "coordinator")):
        return fingerprint(value)
    if name == "signature":
        return f"SSHSIG, {len(str(value))} characters; with --json in full"
    if isinstance(value, float):
        return _decimal(value)
    if isinstance(value, list):
        between = " | " if value and isinstance(value[0], list) else " "
        keys = name.endswith("recipients")
        return between.join(fingerprint(child) if keys else str(_words("", child)) for child in value)
    return str(value)


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= 48 else text[:45] + "..."


def _headline(metrics: object) -> Row | None:
    """Accuracy and loss of a metrics object; None when it has neither."""
    if not isinstance(metrics, dict):
        return None
    found = {name: metrics[name] for name in ("accuracy", "loss") if _value(metrics.get(name)) is not None}
    return found or None


def _rank(score: Row) -> tuple[float, float]:
    return score.get("accuracy", -1.0), -score.get("loss", float("inf"))


def _pair(score: Row | None) -> str | None:
    return f"{_decimal(score.get('accuracy'))} / {_decimal(score.get('loss'))}" if score else None


def _named(metrics: Row | None) -> str | None:
    return ", ".join(f"{name} {_decimal(value)}" for name, value in metrics.items()) if metrics else None


def _decimal(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def _value(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(count: object, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _ordered(one: Fields, two: Fields) -> list[str]:
    return [*one, *(name for name in two if name not in one)]


def _first(records: Sequence[Fields]) -> Fields:
    if not records:
        raise NoRecord("the history is empty")
    return records[0]


def _record(records: Sequence[Fields], sequence: int) -> Fields:
    for record in records[max(0, sequence - 1) :][:1]:
        if record["sequence"] == sequence:
            return record
    raise NoRecord(f"the history has no record {sequence}; it ends with {len(records)}")


def _escaped(text: str) -> str:
    return text.replace("\x7f", "\\u007f")

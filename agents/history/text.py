"""The views of the history as text. Pure: the values that `views` makes in, text out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fedssh.history import figures, names, work
from fedssh.history.published import escaped
from fedssh.history.table import clock, decimal, few, named_lines, number, short, table
from fedssh.history.totals import plain
from fedssh.history.verbs import help_text
from fedssh.history.views import Fields, Row, fingerprint, ordered
from fedssh.rules.vocabulary import PARAMETER_FREE, VERDICTS


def measure(scores: Iterable[Row | None]) -> str:
    """What the first of some scores has beside its loss, as a heading."""
    first: Row = next((score for score in scores if score), {})
    return "MAE" if "mae" in first else "ACC"


def pair(score: Row | None) -> str | None:
    """What a score has beside its loss, and the loss."""
    return f"{decimal(score.get('accuracy', score.get('mae')))} / {decimal(score.get('loss'))}" if score else None


def show_text(record: Row) -> str:
    """One record as lines of name and value."""
    return named_lines((name, clock(value) if name == "time" else _words(name, value)) for name, value in _flat(record))


def diff_text(change: Row) -> str:
    """Two records side by side as two tables."""
    first, second = f"RECORD {change['first']}", f"RECORD {change['second']}"
    scores = [
        (name, decimal(pair["first"]), decimal(pair["second"]),
         "–" if pair["change"] is None else ("+" if pair["change"] >= 0 else "") + decimal(pair["change"]))
        for name, pair in change["scores"].items()
    ]  # fmt: skip
    fields = []
    for name, pair in change["fields"].items():
        one, two = dict(_flat({name: pair["first"]})), dict(_flat({name: pair["second"]}))
        fields += [(key, one.get(key), two.get(key)) for key in ordered(one, two) if one.get(key) != two.get(key)]
    cells = [(name, short(_words(name, one)), short(_words(name, two))) for name, one, two in fields]
    parts = [table(("SCORE", first, second, "CHANGE"), scores, right=(1, 2, 3))] if scores else []
    parts += [table(("FIELD", first, second), cells)] if cells else []
    return "\n".join(parts) or f"records {change['first']} and {change['second']} say the same\n"


def best_text(value: Row) -> str:
    """The current model, or an earlier one, as lines of name and value."""
    metrics, until = value["metrics"] or {}, value["until"]
    lines = [
        ("model", (value["model"] or {}).get("sha256")),
        ("from", origin(value)),
        (
            "current since",
            f"{clock(value['since'])}, by record {value['sequence']}, {value['event']}: {value['reason']}",
        ),
        ("released as", ", ".join(map(str, value["releases"])) or "not released yet"),
        ("claimed", _named(value["claim"])),
        ("scored", _named({name: metrics[name] for name in metrics if plain(metrics[name]) is not None})),
        ("genesis scored", _named(value["genesis"])),
        ("judged since" if until is None else "judged then", number(value["judged_since"], "submission")),
    ]
    more = [] if until is None else [("current until", f"record {until}")]
    more += [("called", _called(name)) for name in value["names"]]
    if tested := value["tested"]:
        more.append(("on the test split", _tested(tested)))
    tables = [name for name in ("per_class_accuracy", "confusion") if metrics.get(name)]
    return named_lines([*lines, *((f"scored {name}", _words(name, metrics[name])) for name in tables), *more])


def _called(name: Row) -> str:
    why = f": {name['note']}" if name["note"] else ""
    return f"{name['tag']} since {clock(name['since'])}, by {name['by']}, record {name['record']}{why}"


def _tested(found: Row) -> str:
    scores = {name: value for name, value in found["metrics"].items() if plain(value) is not None}
    when = f"record {found['record']} at {clock(found['time'])}"
    return f"{_named(scores)}, on {number(found['examples'], 'example')}; {names.how_often(found)}, {when}"


def best_figures(value: Row) -> str:
    """What it scores of each class, with intervals, where a table tells of single classes."""
    found = value["tested"]
    on_test = figures.text(found["assessed"], "ON THE TEST SPLIT") if found else ""
    return figures.text(value["holdout"], "ON THE HOLDOUT") + on_test


def origin(value: Row) -> str:
    """What the current model is made of."""
    if value["updates"]:
        parts = few(
            f"{part['site']} ({_images(part['examples'])}, share {_share(part['share'])})" for part in value["updates"]
        )
        rule = str(value["policy"]).partition(":")[0]
        missing = f"; missing {few(value['missing'])}" if value["missing"] else ""
        return f"round {value['round']}, {rule} of {number(len(value['updates']), 'update')}: {parts}{missing}"
    if value["site"]:
        trained = f"session {value['session']}, epoch {value['epoch']}, trained on {_images(value['examples'])}"
        over = f", over a channel: {work.told(value['work'])}" if value.get("work") else ""
        return f"{value['site']}, {trained}{_of_it(value)}{over}"
    return _beginning(value["weights"], 1 if value["epochs"] is None else value["epochs"])


def _of_it(value: Row) -> str:
    """How much of what a site sent is in the current model."""
    if value["share"] is None:
        return ""
    share, late = _share(value["share"]), f"staleness {value['staleness']}"
    if waited := value.get("slots"):
        return f"; {share} times the mean of its step and those that waited (records {few(waited)}), {late}"
    steps = str(value["policy"]).partition(":")[0] in ("step", "gather")
    return f"; part {share} of its step, {late}" if steps else f"; share {share} of it, {late}"


def _beginning(given: Row | None, epochs: int) -> str:
    """What a genesis is made of."""
    first = "the coordinator's own first " + ("epoch" if epochs == 1 else f"{epochs} epochs")
    if given:
        tensors = f"{given['tensors']} of {given['of']} tensors from given weights"
        return f"{first}, with {tensors}" if epochs else f"{tensors}, not trained"
    return first if epochs else "random weights, not trained"


def _images(count: object) -> str:
    return f"{count:,} images" if isinstance(count, int) else f"{count} images"


def _share(share: object) -> str:
    return f"{share:.2g}" if isinstance(share, int | float) else "–"


def nodes_text(rows: Sequence[Row]) -> str:
    """Sites and auditors as a table; what is scored in rounds are not the sites, so then other columns tell more."""
    rounds, best = any(row["counted"] for row in rows), f"BEST {measure(row['best'] for row in rows)} / LOSS"
    columns = ("SITE", "ROLE", "STATE", "SINCE (UTC)", "COUNTED" if rounds else "ACCEPTED", "REFUSED", "INVALID",
               "SESSIONS", "LAST ROUND" if rounds else best, "LAST HEARD (UTC)", "KEY")  # fmt: skip
    return table(
        columns,
        [
            (row["site"], row["role"], row["state"], clock(row["since"]), row["counted" if rounds else "accepted"],
             row["refused"], row["invalid"] + row["garbage"], row["sessions"],
             row["round"] if rounds else pair(row["best"]), clock(row["last"]), row["key"])
            for row in rows
        ],
        right=(4, 5, 6, 7, 8) if rounds else (4, 5, 6, 7),
    )  # fmt: skip


def status_text(value: Row) -> str:
    """Where the federation stands, as lines of name and value."""
    made, rounds = value["current"], value["rounds"]
    waiting = ", ".join(
        f"{count} of {site}" + (f" (above its rate, for {value['held'][site]} s)" if site in value["held"] else "")
        for site, count in sorted(value["waiting"].items())
        if count
    )
    by = f" by {made['site']}" if made["site"] else f", round {made['round']}" if made["round"] else ""
    shown = [event for event in VERDICTS if event != ("counted" if rounds is None else "accepted")]
    return named_lines(
        [
            ("federation", f"{value['federation']}, {value['state']}"),
            ("schedule", schedule_text(value)),
            *([] if rounds is None else rounds_lines(rounds, over=value["state"] == "finished")),
            ("policy", value["policy"]),
            ("gate", _gate(value["gate"], value["margin"])),
            ("rates", _rates(value["rates"])),
            ("sites", few(value["sites"], 100) or "none yet"),
            ("auditors", few(value["auditors"], 100) or "none"),
            ("current model", f"record {made['sequence']}{by}"),
            ("scored", _named(made["score"])),
            ("genesis scored", _named(value["genesis"])),
            ("newest release", value["release"]),
            *([("names", few(map(" is ".join, _texts(value["names"])), 20))] if value.get("names") else []),
            ("judged", ", ".join(f"{value[event]} {event}" for event in shown) + _dropped(value["garbage"])),
            *([("over channels", _channels(value["work"]))] if value.get("work") else []),
            ("waiting", waiting or "nothing"),
            ("history", f"{number(value['records'], 'record')}, the last at {clock(value['last'])}"),
            ("head", value["head"]),
        ]
    )


def _texts(named: Row) -> Iterator[tuple[str, str]]:
    return ((tag, f"record {of}") for tag, of in named.items())


def _channels(sum: Row) -> str:
    return f"{number(sum['turns'], 'turn')}: {work.told(sum)}"


def schedule_text(value: Row) -> str:
    """How the sites take part, of a `status`."""
    sessions, rounds = value["sessions"], value["rounds"]
    if rounds is not None:
        done = (
            f"{rounds['closed']} closed, without end"
            if sessions is None
            else f"{rounds['closed']} of {sessions} closed"
        )
        return f"rounds, {done}"
    agreed = "without end" if sessions is None else number(sessions, "session") + " per site"
    turn = f", {value['turn']} has its turn" if value["turn"] else ""
    return f"{value['schedule']}, {agreed}{turn}"


def _gate(kind: object, margin: object) -> str:
    told = {"on": f"on, margin {margin}", "ladder": f"ladder, steps of {margin}"}
    return (told | {PARAMETER_FREE: "ladder, parameter-free"}).get(str(kind), "off")


def _rates(agreed: Row | None) -> str:
    told = {"submissions_per_hour": "bundles", "invalid_per_hour": "invalid ones"}
    limits = [f"{(agreed or {})[name]} {what}" for name, what in told.items() if (agreed or {}).get(name)]
    return f"at most {' and '.join(limits)} per site and hour" if limits else "no limit"


def _dropped(count: int) -> str:
    return f"; {count} more without a readable id" if count else ""


def rounds_lines(rounds: Row, *, over: bool) -> list[tuple[str, object]]:
    """The open round and the last one, by name."""
    last, now = rounds["last"], rounds["open"]
    lines: list[tuple[str, object]] = []
    if now:
        extended = ", open to every site since its deadline" if now["extended"] else ""
        missing = f", missing {few(now['missing'])}" if now["missing"] else ""
        missing += f" (not waiting for {few(now['empty'])}: nothing of use came)" if now["empty"] else ""
        at = f"or from {clock(now['closes'])} with {now['enough']}" if now["closes"] else "it has no deadline"
        sent = f"{len(now['sent'])} of {number(len(now['sites']), 'update')} in"
        lines += [("open round", f"{now['number']}{extended}: {sent}{missing}; closes with all, {at}")]
    elif rounds["lacks"] and not over:
        lines += [("open round", f"none: a round takes {number(rounds['least'], 'site')}, {rounds['lacks']} more")]
    if last:
        verdict = last["event"].removeprefix("round-")
        lines += [("last round", f"{last['round']}, {verdict} at {clock(last['time'])}: {last['reason']}")]
    return lines


def verify_text(value: Row) -> str:
    """That the history is sound, in one sentence, and where decisions were looked at, what nobody can check."""
    if "unchecked" not in value:  # at the door, which has no business with decisions
        return f"{number(value['records'], 'record')}: every hash, link and signature is right; head {value['head']}\n"
    words = [f"{what} ({count})" for what, count in value["unchecked"].items() if count]
    trusted = ", ".join(["what models score", *words])
    return (
        f"{number(value['records'], 'record')}: every hash, link, signature and decision is right; head "
        f"{value['head']}\ntaken on the coordinator's word: {trusted}\n"
    )


def _sites(value: Row) -> str:
    from fedssh.history.sites import text  # with the statistics, which no other verb needs

    return text(value)


TEXTS: dict[str, Callable[[Any], str]] = {
    "show": show_text,
    "diff": diff_text,
    "best": lambda value: best_text(value) + best_figures(value),
    "tags": names.text,
    "scores": figures.scores,
    "privacy": figures.privacy,
    "sites": _sites,
    "nodes": nodes_text,
    "status": status_text,
    "verify": verify_text,
    "help": lambda value: help_text(),
}


def to_json(value: object) -> str:
    """A value as indented ASCII JSON; nothing in it can act on a terminal."""
    return escaped(json.dumps(value, indent=2)) + "\n"


def json_lines(rows: Iterable[Row]) -> Iterator[str]:
    """The text of `to_json` for a list that need not fit into memory."""
    between = "[\n  "
    for row in rows:
        yield between + to_json(row).rstrip("\n").replace("\n", "\n  ")
        between = ",\n  "
    yield "[]\n" if between == "[\n  " else "\n]\n"


# Fields of records in words


def _flat(fields: Fields) -> Iterator[tuple[str, Any]]:
    """Fields with those of nested objects beside them: `model.sha256`, `updates.alice-1.share`."""
    for name, value in fields.items():
        inner = _parts(value)
        if inner:
            yield from _flat({f"{name}.{key}": child for key, child in inner.items()})
        else:
            yield name, value


def _parts(value: object) -> Row:
    """What is in a field by name: an object's fields; a list's objects by their site or place."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(child, dict) for child in value):
        named = enumerate(value, 1)
        return {str(child.get("site", place)): _without_site(child) for place, child in named}
    return {}


def _without_site(child: Row) -> Row:
    return {name: value for name, value in child.items() if name != "site"}


def _words(name: str, value: object) -> str | None:
    """A field's value in one line."""
    if value is None:
        return None
    if name == "key" or name.endswith((".key", "coordinator")):
        return fingerprint(value)
    if name == "signature":
        return f"SSHSIG, {len(str(value))} characters; with --json in full"
    if name == "curve" and isinstance(value, list):
        return f"{number(len(value), 'point')}; with --json in full"
    if isinstance(value, float):
        return decimal(value)
    if isinstance(value, list):
        between = " | " if value and isinstance(value[0], list) else " "
        keys = name.endswith("recipients")
        return between.join(fingerprint(child) if keys else str(_words("", child)) for child in value)
    return str(value)


def _named(metrics: Row | None) -> str | None:
    return ", ".join(f"{name} {decimal(value)}" for name, value in metrics.items()) if metrics else None

"""What each site sent, what it brought, and which are worth a look: the view `sites`. Pure, standard library only.

    {"metric", "rounds", "sites": [{"site", "submissions", "accepted", "refused", "counted", "invalid",
      "claims": {"median", "worst", "of"} | null, "gain": {metric, "loss"} | null,
      "findings": [{"rule", "p", "own", "others", "of", "text"}]}]}

By which rules is told in `rules.faulty`, what a gain is in `contributions`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from fedssh.history.contributions import contributions, metric_of
from fedssh.history.table import decimal, table
from fedssh.history.totals import plain
from fedssh.rules import faulty
from fedssh.rules.faulty import Finding, Sent
from fedssh.rules.vocabulary import CLOSES_ROUND, VERDICTS

Fields = Mapping[str, Any]
Row = dict[str, Any]
ABSURD = 1e9
BLAMELESS = "worth a look, not blame: other data, a broken scanner and bad will look alike from here"


def sites(records: Iterable[Fields]) -> Row:
    """The whole view.

    Args:
        records: The history from its first record.
    """
    every = list(map(_slim, records))
    names = [one["site"] for one in every if one["event"] == "site-added" and one["role"] == "site"]
    judged = Counter((one.get("site"), one["event"]) for one in every if _on_a_model(one))
    sent = gathered(every)
    found, gains = faulty.findings(sent), contributions(every)
    rows = []
    for name in dict.fromkeys(names):
        verdicts = {event: judged[name, event] for event in VERDICTS}
        gaps = sent[name].values.get("claims", []) if name in sent else []
        rows.append(
            {
                "site": name,
                "submissions": sum(verdicts.values()),
                **verdicts,
                "claims": {"median": median(gaps), "worst": max(gaps), "of": len(gaps)} if gaps else None,
                "gain": gains.get(name),
                "findings": [_told(one) for one in found.get(name, ())],
            }
        )
    first = every[0]
    return {"metric": metric_of(first), "rounds": first["schedule"] == "rounds", "sites": rows}


def gathered(records: Iterable[Fields]) -> dict[str, Sent]:
    """By site what `rules.faulty` compares."""
    found: dict[str, Sent] = {}
    open_round: dict[str, Fields] = {}
    in_rounds = False
    for record in records:
        event, site = record["event"], record.get("site")
        if event == "genesis":
            in_rounds = record["schedule"] == "rounds"
        if event == "round-opened":
            open_round = {}
        elif event == "counted":
            open_round[str(site)] = record
        elif event in CLOSES_ROUND:
            _close(found, record, open_round)
        if _on_a_model(record):
            one = found.setdefault(str(site), Sent())
            one.bundles += 1
            one.invalid += event == "invalid"
            if event in ("accepted", "refused") and not in_rounds:
                one.models += 1
                one.refused += event == "refused"
                _compare(one, record.get("claim"), record.get("metrics"), record.get("current_metrics"))
    return found


def _close(found: dict[str, Sent], record: Fields, counted: Mapping[str, Fields]) -> None:
    """What the end of a round tells of its updates."""
    lengths = [length for part in record["updates"] if (length := part.get("length"))]
    middle = median(lengths) if lengths else 0.0
    for part in record["updates"]:
        one = found.setdefault(part["site"], Sent())
        _compare(one, (counted.get(part["site"]) or {}).get("claim"), record.get("metrics"), None)
        if part.get("cosine") is not None:
            one.values.setdefault("against", []).append(1 - part["cosine"])
        if part.get("length"):
            one.values.setdefault("length", []).append(math.log(part["length"]) - math.log(middle))


def _compare(one: Sent, claim: Fields | None, metrics: Fields | None, current: Fields | None) -> None:
    """What a model's scores tell beside what was claimed of it, and beside the current one's."""
    if (gap := _gap(claim or {}, metrics or {})) is not None:
        one.values.setdefault("claims", []).append(gap)
    after, before = plain((metrics or {}).get("loss")), plain((current or {}).get("loss"))
    if after is not None and before is not None and after > 0 and before > 0:
        one.values.setdefault("harm", []).append(math.log(after) - math.log(before))


def _gap(claim: Fields, metrics: Fields) -> float | None:
    """How much better a model is said to be than it scores: in accuracy, or as a share of the mean absolute error.

    None where nobody can tell, or it is beyond `ABSURD`: a claim may be any number, and JSON has no infinity.
    """
    for measure in ("accuracy", "mae"):
        said, scored = plain(claim.get(measure)), plain(metrics.get(measure))
        if said is not None and scored is not None:
            gap = said - scored if measure == "accuracy" else (scored - said) / scored if scored else math.inf
            return gap if abs(gap) <= ABSURD else None
    return None


def _on_a_model(record: Fields) -> bool:
    """Whether a record is a verdict on a model; a report is refused without one."""
    event = record["event"]
    return event == "invalid" or (event in VERDICTS and bool(record.get("model")))


_KEPT = (
    "event", "sequence", "site", "role", "schedule", "plan", "claim", "current_metrics", "metrics", "model", "updates",
    "to", "slots",
)  # fmt: skip


def _slim(record: Fields) -> Row:
    """What is needed of a record, without its tables: a long history has many."""
    row = {name: record[name] for name in _KEPT if name in record}
    for name in ("metrics", "current_metrics"):
        if row.get(name):
            row[name] = {of: value for of, value in row[name].items() if plain(value) is not None}
    return row


def _told(found: Finding) -> Row:
    """A finding for programs, with its words."""
    own, others, of = found.own, found.others, found.of
    match found.rule:
        case "claims":
            words = f"claims {own:.2f} more than it scores in the middle of {of}, the other sites {others:.2f}"
        case "harm":
            words = f"its models change the holdout loss by {_percent(own)} in the middle of {of}, the other sites' by "
            words += _percent(others)
        case "against":
            words = f"its updates point elsewhere than the others: cosine {1 - own:.2f} in the middle of {of}, the "
            words += f"other sites' {1 - others:.2f}"
        case "length":
            times = math.exp(min(own, 500.0))
            words = f"its updates are {times:.1f} times as long as the middle one of their round, of {of}"
        case _:
            words = f"{_share(own, of)} {_COUNTED[found.rule]}, of the other sites' {others:.0%}"
    return {"rule": found.rule, "p": found.p, "own": own, "others": others, "of": of, "text": words}


_COUNTED = {"refused": "models were refused", "invalid": "bundles could not be judged"}


def _percent(log: float) -> str:
    change = math.expm1(min(log, 500.0))
    return f"{change:+.0%}" if change < 10 else f"{change + 1:.3g} times"


def _share(share: float, of: int) -> str:
    count = round(share * of)
    return f"every one of its {of}" if count == of else f"{count} of its {of}"


def text(value: Row) -> str:
    """The view as a table and sentences."""
    metric, in_rounds = value["metric"], value["rounds"]
    kinds = ("counted", "refused", "invalid") if in_rounds else ("accepted", "refused", "invalid")
    columns = (
        "SITE", "SENT", *map(str.upper, kinds), "CLAIMED - SCORED", "WORST",
        f"GAIN IN {metric.upper().replace('_', ' ')}", "IN LOSS",
    )  # fmt: skip
    rows = []
    for row in value["sites"]:
        claims, gain = row["claims"] or {}, row["gain"] or {}
        shown = (claims.get("median"), claims.get("worst"), gain.get(metric), gain.get("loss"))
        rows.append((row["site"], row["submissions"], *(row[kind] for kind in kinds), *map(_signed, shown)))
    divided = "\na round's gain is divided by the shares of its updates\n" if in_rounds else ""
    suspects = [(row["site"], one) for row in value["sites"] for one in row["findings"]]
    told = [f"look at {site}: {one['text']} ({_p(one['p'])})\n" for site, one in suspects]
    end = f"{BLAMELESS}\n" if told else "no site stands out from the others\n"
    return table(columns, rows, right=range(1, len(columns))) + divided + "\n" + "".join(told) + end


def _signed(value: object) -> str:
    return ("+" if isinstance(value, int | float) and value >= 0 else "") + decimal(value)


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"

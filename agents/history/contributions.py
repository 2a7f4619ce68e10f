"""What each site's models brought: how much better the current model is than the first, and by whom. Pure.

An accepted model's gain is what it scores on the holdout less what the model scored that it replaced, and its site's,
whatever mix or step of it became current; what several sites' steps brought together is divided evenly.
A round's gain is divided by the shares of its updates: that is an attribution, not a measurement, since nobody scored
the round without a site; who sends nothing of use beside others who do gets its share all the same. What was rolled
back counts for nobody. So the gains of all sites add up to what the current model gained.

Counting what was accepted tells less: a model may be accepted for a thousandth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedssh.rules.metrics import gain
from fedssh.rules.vocabulary import MAKES_CURRENT

Fields = Mapping[str, Any]
Gains = dict[str, dict[str, float]]  # by site: by metric


def contributions(records: Iterable[Fields]) -> Gains:
    """By site the gain in the main metric, and in loss: positive is better in both. Sites without one are left out.

    What cannot be told, because a score is missing, counts as nothing.

    Args:
        records: The history from its first record.
    """
    main, refused = "accuracy", dict[int, str]()  # whose a refused step was, which may wait
    steps: dict[int, tuple[int | None, Gains]] = {}  # by record that made a model current: the one before, its gains
    last = None
    for record in records:
        event, number = record["event"], record["sequence"]
        if event == "genesis":
            main = metric_of(record)
        if event == "refused":
            refused[number] = record["site"]
        if event in MAKES_CURRENT:
            steps[number] = (record["to"] if event == "rollback" else last), _gains(record, main, refused)
            last = number
    found: Gains = {}
    while last is not None:
        last, gains = steps[last]
        for site, by in gains.items():
            own = found.setdefault(site, {})
            for metric, value in by.items():
                own[metric] = own.get(metric, 0.0) + value
    return {site: {metric: round(value, 9) for metric, value in by.items()} for site, by in found.items()}


def metric_of(genesis: Fields) -> str:
    """What the federation compares models by first."""
    return str((genesis.get("plan") or {}).get("metric") or "accuracy")


def gain_of(record: Fields, main: str) -> dict[str, float] | None:
    """By how much the model that a record made current by training is better than the one before; None of others."""
    if record["event"] not in ("accepted", "round-accepted"):
        return None
    return {metric: round(by, 9) for metric, by in _whole(record, main).items()} or None


def _gains(record: Fields, main: str, refused: Mapping[int, str]) -> Gains:
    if record["event"] in ("genesis", "rollback"):
        return {}
    whole = _whole(record, main)
    if record["event"] == "accepted":
        sites = [record["site"], *(refused[number] for number in record.get("slots", ()) if number in refused)]
        return {site: {metric: by / len(sites) for metric, by in whole.items()} for site in sites}
    return {
        part["site"]: {metric: by * part["share"] for metric, by in whole.items()}
        for part in record["updates"]
        if part["share"] is not None
    }


def _whole(record: Fields, main: str) -> dict[str, float]:
    return {metric: by for metric in (main, "loss") if (by := _better(record, metric)) is not None}


def _better(record: Fields, metric: str) -> float | None:
    """By how much a model is better than the one that it replaced."""
    after, before = ((record.get(of) or {}).get(metric) for of in ("metrics", "current_metrics"))
    if after is None or before is None:
        return None
    return before - after if metric == "loss" else gain(metric, after) - gain(metric, before)

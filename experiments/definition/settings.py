"""What an experiment may say: every key with its check and its default, and what is said about a wrong one.

[federation]   architecture, sites, policy, schedule, gate, margin, metric, sessions (or rounds), attack, straggler,
               score_sites, evidence, control, membership
[plan]         optimizer, learning_rate, momentum, batch_size, epochs, patience, publish, proximal, class_weights,
               learning_rate_schedule, warmup, clip_norm, weight_decay, augment, local,
               site_rates, precision, calibrate, unlabelled, privacy
[data]         dataset, partition, coordinator, weights, per_label, outliers, train, holdout, test, folds, fold,
               labelled, validation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from experiments.definition import attack
from experiments.definition.config import ENGINES, SCHEDULES
from experiments.definition.control import CONTROLS
from fedssh import forms
from fedssh.forms import Expected, Form, named, nearest, number, one_of, whole, yes_or_no
from fedssh.rules.metrics import METRICS
from fedssh.rules.terms import FORMS, LATER, Terms

Check = Callable[[Any], Any]
Known = Mapping[str, tuple[Check, Any]]

SCORES = (*METRICS, "loss")


def text(value: Any) -> str:
    """Any text, without the space around it."""
    return forms.text(value).strip()


def _term(name: str, default: Any = None) -> tuple[Check, Any]:
    """What a federation may agree on, with its default unless experiments have their own."""
    return FORMS[name], getattr(Terms, name) if default is None else default


def _or_usual(form: Form[str]) -> Check:
    """A word, or "" for what goes with the policy."""
    return lambda value: "" if value == "" else form(value)


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise Expected("expected a list of whole numbers from 0")
    return tuple(dict.fromkeys(value))


def patterns(value: Any) -> tuple[str, ...]:
    """One pattern or more."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise Expected("expected a list of patterns")
    return tuple(value)


def _scores(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Expected(f"expected a list of {', '.join(SCORES)}")
    return tuple(dict.fromkeys(map(one_of(*SCORES), value)))


def _values(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not value or not all(type(one) in (int, float) for one in value):
        raise Expected("expected a list of scores")
    return tuple(sorted(map(float, value)))


def _architecture(value: Any) -> dict[str, Any]:
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or not isinstance(table.get("name"), str) or {"input", "classes"} & table.keys():
        raise Expected('expected a name, or a table such as { name = "cnn", depth = 8 }; the rest comes from the data')
    from fedssh.models import check_spec

    check_spec({"input": [224, 224, 3], "classes": 2, **table})
    return dict(table)


def _partition(value: Any) -> str:
    rule, _, parameter = text(value).partition(":")
    if rule in ("iid", "by_patient") and not parameter:
        return rule
    try:
        if rule in ("dirichlet", "skew") and 0 < float(parameter) < math.inf:
            return f"{rule}:{float(parameter):g}"
        if rule in ("classes", "shards") and int(parameter) > 0:
            return f"{rule}:{int(parameter)}"
    except ValueError:
        pass
    raise Expected("expected iid, dirichlet:ALPHA, skew:ALPHA, classes:K, shards:N or by_patient")


def _attack(value: Any) -> str:
    words = text(value)
    if words != "none":
        attack.read_attack(words)
    return words


_SHARE = number(0, 0.9)
TOP: Mapping[str, Check] = {
    "name": named,
    "question": text,
    "engine": one_of(*ENGINES),
    "seeds": _seeds,
    "conclusion": text,
    "report": _scores,
    "baseline": text,
    "reaches": _values,
}
FEDERATION: Known = {
    "architecture": (_architecture, {"name": "cnn"}),
    "sites": (whole(1, 10_000), 3),
    "policy": _term("policy", "best"),
    "schedule": (_or_usual(one_of(*SCHEDULES)), ""),  # "": rounds where the policy has them, else free
    "gate": _term("gate"),
    "margin": _term("margin"),
    "metric": _term("metric", "accuracy"),
    "sessions": _term("sessions", 3),
    "attack": (_attack, "none"),
    "straggler": (number(1, 1000), 1.0),
    "score_sites": (yes_or_no, False),
    "evidence": _term("evidence"),
    "control": (one_of(*CONTROLS), "none"),
    "membership": (yes_or_no, False),
}
PLAN: Known = {
    "optimizer": _term("optimizer"),
    "learning_rate": _term("learning_rate"),
    "momentum": _term("momentum"),
    "batch_size": _term("batch_size"),
    "epochs": _term("epochs", 10),
    "patience": _term("patience"),
    "publish": (_or_usual(FORMS["publish"]), ""),  # "": session in rounds, else improved
    "proximal": _term("proximal"),
    **{name: _term(name) for name in LATER},
}
DATA: Known = {
    "dataset": (text, "pneumoniamnist"),
    "partition": (_partition, "iid"),
    "coordinator": (_SHARE, 0.1),  # of train, for the first model's epoch; 0: it starts from random weights
    "weights": (text, ""),  # a file of given first weights, in the data directory
    "per_label": (whole(0), 0),  # that many training images of each class; 0 is all
    "outliers": (_SHARE, 0.0),  # share of each class's training images to drop, the farthest from its mean image
    "train": (whole(0), 0),  # that many training images at most, then of holdout and test; 0 is all
    "holdout": (whole(0), 0),
    "test": (whole(0), 0),
    "folds": (whole(0, 100), 0),  # train and val in so many folds, one of which is the test; 0 keeps the splits
    "fold": (whole(0, 100), 0),  # which, from 1
    "labelled": (number(above=0, most=1), 1.0),  # share of a site's images that have labels, of which it trains
}
AS_EVER = {"labelled": 1.0}  # stand in a run only where they are another, so that a run without them is what it was
SECTIONS: Mapping[str, Known] = {
    "federation": FEDERATION,
    "plan": PLAN,
    "data": {**DATA, "validation": (_SHARE, 0.15)},
}
SETTINGS: Known = {key: value for section in SECTIONS.values() for key, value in section.items()}
ALIASES = {"rounds": "sessions"}
# Settings whose values tell what they are; a run's name gives the others with their key.
TELLING = ("architecture", "policy", "schedule", "partition", "attack", "dataset")


def checked(key: str, value: Any, check: Check, where: str) -> Any:
    """The value as it is used; ValueError says what is wrong with it in one line, `where` first."""
    return forms.checked(f"{where} {key}".strip(), value, check)


def require_known(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise ValueError for a key that means nothing, with the nearest one that does."""
    for key in table:
        if key not in known:
            start = f"{where} has no {key!r}" if where else f"{key!r} is nothing that an experiment says"
            raise ValueError(start + nearest(key, known))


def all_of(table: Mapping[str, Any], checks: Mapping[str, Check], needed: Sequence[str], where: str) -> dict[str, Any]:
    """A table's values as they are used.

    Raises:
        ValueError: A key is unknown or missing, or a value is not what it must be.
    """
    require_known(table, checks, where)
    for key in needed:
        if key not in table:
            raise ValueError(f"{where} lacks {key!r}")
    return {key: checked(key, value, checks[key], where) for key, value in table.items()}


def table_of(value: Any, where: str) -> Mapping[str, Any]:
    """A table, or ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no table")
    return value


def tables_of(value: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """A list of tables, or ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{where} is no list of tables")
    return [table_of(one, where) for one in value]

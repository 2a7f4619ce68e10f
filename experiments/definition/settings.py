"""What an experiment may say: every key with its check and its default, and what is said about a wrong one.

[federation]   architecture, sites, policy, schedule, gate, margin, metric, sessions (or rounds), attack, straggler,
               score_sites
[plan]         optimizer, learning_rate, momentum, batch_size, epochs, patience, publish, proximal
[data]         dataset, partition, coordinator, weights, per_label, outliers, train, holdout, test, folds, fold,
               validation
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from experiments.definition.attack import read_attack
from experiments.definition.config import ENGINES, SCHEDULES
from fedssh.rules.gate import GATES
from fedssh.rules.plan import OPTIMIZERS
from fedssh.rules.policies import read_policy

Check = Callable[[Any], Any]
Known = Mapping[str, tuple[Check, Any]]

METRICS = ("accuracy", "auc", "precision", "recall")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")


class _SaidAlready(ValueError):
    """The message says all by itself."""


def text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value.strip()


def one_of(*known: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> str:
        if value not in known:
            raise ValueError(f"one of {', '.join(map(repr, known))}")
        return str(value)

    return check


def whole(low: int, high: int = 2**31 - 1) -> Check:
    """A whole number in a range."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number in {low}..{high:,}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise ValueError(f"a number in {low:g}..{high:g}")
        return float(value)

    return check


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("lower-case letters, digits and dashes")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(seed) is int and seed >= 0 for seed in value):
        raise ValueError("a list of whole numbers from 0")
    return tuple(dict.fromkeys(value))


def _architecture(value: Any) -> dict[str, Any]:
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or not isinstance(table.get("name"), str) or {"input", "classes"} & table.keys():
        raise ValueError('a name, or a table such as { name = "cnn", depth = 8 }; the rest comes from the data')
    from fedssh.models import check_spec

    try:
        check_spec({"input": [224, 224, 3], "classes": 2, **table})
    except ValueError as error:
        raise _SaidAlready(str(error)) from None
    return dict(table)


def _partition(value: Any) -> str:
    rule, _, alpha = text(value).partition(":")
    if rule in ("iid", "by_patient") and not alpha:
        return rule
    try:
        if rule == "dirichlet" and 0 < float(alpha) < math.inf:
            return f"{rule}:{float(alpha):g}"
    except ValueError:
        pass
    raise ValueError("iid, dirichlet:ALPHA or by_patient")


def _read_by(read: Callable[[str], Any]) -> Check:
    def check(value: Any) -> str:
        words = text(value)
        try:
            read(words)
        except ValueError as error:
            raise _SaidAlready(str(error)) from None
        return words

    return check


_SHARE = _number(0, 0.9)
TOP: Mapping[str, Check] = {
    "name": _name,
    "question": text,
    "engine": one_of(*ENGINES),
    "seeds": _seeds,
    "conclusion": text,
}
FEDERATION: Known = {
    "architecture": (_architecture, {"name": "cnn"}),
    "sites": (whole(1, 10_000), 3),
    "policy": (_read_by(read_policy), "best"),
    "schedule": (one_of(*SCHEDULES, ""), ""),  # "": rounds where the policy has them, else free
    "gate": (one_of(*GATES), "on"),
    "margin": (_number(0, 0.99), 0.01),
    "metric": (one_of(*METRICS), "accuracy"),
    "sessions": (whole(1), 3),
    "attack": (_read_by(lambda words: words == "none" or read_attack(words)), "none"),
    "straggler": (_number(1, 1000), 1.0),
    "score_sites": (_yes_or_no, False),
}
PLAN: Known = {
    "optimizer": (one_of(*OPTIMIZERS), "adam"),
    "learning_rate": (_number(1e-9, 1000), 0.001),
    "momentum": (_number(0, 0.9999), 0.0),
    "batch_size": (whole(1), 64),
    "epochs": (whole(1), 10),
    "patience": (whole(1), 10),
    "publish": (one_of("improved", "session", ""), ""),  # "": session in rounds, else improved
    "proximal": (_number(0, 1e6), 0.0),
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
}
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
    """The value as it is used.

    Raises:
        ValueError: It is not what it must be; says so in one line, `where` first.
    """
    try:
        return check(value)
    except _SaidAlready as error:
        raise ValueError(f"{where} {key}: {error}".strip()) from None
    except ValueError as error:
        raise ValueError(f"{where} {key} is {json.dumps(value, default=str)[:60]}, expected {error}".strip()) from None


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


def nearest(word: str, known: Collection[str]) -> str:
    """What else may have been meant, as the end of a message."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"

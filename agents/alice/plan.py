"""The coordinator's training plan, as it stands in a release: checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.errors import BundleError

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "nadam")
LOSSES = ("auto", "binary_crossentropy", "sparse_categorical_crossentropy")


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        batch_size: Images per step.
        epochs: The most epochs of a session.
        patience: Epochs without a lower validation loss after which a session ends.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Greater than 0.
        loss: One of `LOSSES`; `auto` is the one that fits the number of classes.
    """

    batch_size: int
    epochs: int
    patience: int
    optimizer: str
    learning_rate: float
    loss: str


def read_plan(fields: Mapping[str, Any]) -> Plan:
    """Take the plan out of a release. Unknown fields are left to newer programs.

    Raises:
        BundleError: A field is missing or out of range.
    """
    return Plan(
        batch_size=_whole(fields, "batch_size"),
        epochs=_whole(fields, "epochs"),
        patience=_whole(fields, "patience", default=10),
        optimizer=_one_of(fields, "optimizer", OPTIMIZERS),
        learning_rate=_positive(fields, "learning_rate"),
        loss=_one_of(fields, "loss", LOSSES),
    )


def _whole(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 1 <= value < 2**31:
        raise BundleError(f"{name!r} of the training plan is {str(value)[:40]}, expected a whole number from 1")
    return value


def _positive(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 and math.isfinite(value)):
        raise BundleError(f"{name!r} of the training plan is {str(value)[:40]}, expected a number greater than 0")
    return float(value)


def _one_of(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name)
    if value not in known:
        raise BundleError(f"{name!r} of the training plan is {str(value)[:40]!r}, expected one of {', '.join(known)}")
    return str(value)

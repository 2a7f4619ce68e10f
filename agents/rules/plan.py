"""The coordinator's training plan, as it stands in a release: checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedssh.errors import BundleError

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "nadam")
PUBLISH = ("improved", "session")
LOSSES = ("auto", "binary_crossentropy", "sparse_categorical_crossentropy")


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        batch_size: Images per step.
        epochs: The most epochs of a session; exactly so many when `publish` is `session`.
        patience: Epochs without a lower validation loss after which a session ends.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: Greater than 0.
        loss: One of `LOSSES`; `auto` is the one that fits the number of classes.
        publish: `improved`: every checkpoint that is better than the best so far, until patience is over. `session`:
            the weights at the end of the session, once, whatever they score.
        momentum: Of the optimizer sgd, in 0..1 without 1.
        proximal: The mu of FedProx (Li et al. 2020), at least 0: how strongly training is pulled to the release.
    """

    batch_size: int
    epochs: int
    patience: int
    optimizer: str
    learning_rate: float
    loss: str
    publish: str = "improved"
    momentum: float = 0.0
    proximal: float = 0.0


def read_plan(fields: Mapping[str, Any]) -> Plan:
    """Take the plan out of a release. Unknown fields are left to newer programs; older ones leave the last three out.

    Raises:
        BundleError: A field is missing or out of range.
    """
    plan = Plan(
        batch_size=_whole(fields, "batch_size"),
        epochs=_whole(fields, "epochs"),
        patience=_whole(fields, "patience", default=10),
        optimizer=_one_of(fields, "optimizer", OPTIMIZERS),
        learning_rate=_positive(fields, "learning_rate"),
        loss=_one_of(fields, "loss", LOSSES),
        publish=_one_of({"publish": "improved", **fields}, "publish", PUBLISH),
        momentum=_number({"momentum": 0.0, **fields}, "momentum", 0, below=1),
        proximal=_number({"proximal": 0.0, **fields}, "proximal", 0),
    )
    if plan.momentum and plan.optimizer != "sgd":
        optimizer = plan.optimizer
        raise BundleError(f"'momentum' of the training plan is {plan.momentum:g} with {optimizer}, expected sgd")
    return plan


def _whole(fields: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 1 <= value < 2**31:
        raise BundleError(f"{name!r} of the training plan is {str(value)[:40]}, expected a whole number from 1")
    return value


def _positive(fields: Mapping[str, Any], name: str) -> float:
    if not (value := _number(fields, name, 0)):
        raise BundleError(f"{name!r} of the training plan is {value}, expected a number greater than 0")
    return value


def _number(fields: Mapping[str, Any], name: str, least: float, below: float = math.inf) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < below:
        limit = f" and less than {below:g}" if below < math.inf else ""
        found = f"{name!r} of the training plan is {str(value)[:40]}"
        raise BundleError(f"{found}, expected a number of at least {least:g}{limit}")
    return float(value)


def _one_of(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name)
    if value not in known:
        raise BundleError(f"{name!r} of the training plan is {str(value)[:40]!r}, expected one of {', '.join(known)}")
    return str(value)

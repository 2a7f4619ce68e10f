"""What a federation agrees on when it begins: policy, gate, schedule and training plan, written out in full. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedssh.errors import SettingsError
from fedssh.rules.gate import Gate
from fedssh.rules.policies import Policy, read_policy

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad", "adamax", "nadam")
EPOCHS = {"improved": 100, "session": 1}


def agree(
    settings: Mapping[str, Any], spec: dict[str, Any], loss: str, class_names: list[str] | None = None
) -> dict[str, Any]:
    """The terms that genesis records and every release repeats.

    Args:
        settings: Those of `charity init`, by name.
        spec: The architecture, checked.
        loss: The loss that fits it.
        class_names: What its classes are called, in label order; None where nobody says.

    Raises:
        SettingsError: A value is out of range, or two do not go together.
    """
    try:
        policy = read_policy(settings["policy"])
        gate = Gate(settings["gate"], float(settings["margin"]))
    except ValueError as error:
        raise SettingsError(str(error), "`charity policies` lists policies and their options") from None
    return {
        "federation": settings["name"],
        "spec": spec,
        "class_names": class_names,
        "plan": _plan(settings, policy) | {"loss": loss},
        "policy": policy.text,
        "gate": gate.kind,
        "margin": gate.margin,
        "schedule": _schedule(settings["schedule"], policy),
        "sessions": settings["sessions"],
        "rates": {name: settings[name] for name in ("submissions_per_hour", "invalid_per_hour")},
    }


def _schedule(wanted: str, policy: Policy) -> str:
    if not policy.rounds:
        return wanted
    if wanted == "relay":
        raise SettingsError(
            f"the policy {policy.name} trains in rounds, not in a relay", "leave --schedule out, or take another policy"
        )
    return "rounds"


def _plan(settings: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    publish = settings["publish"] or ("session" if policy.rounds else "improved")
    if policy.rounds and publish != "session":
        raise SettingsError(f"the policy {policy.name} takes one update per round", "leave --publish out")
    if settings["optimizer"] not in OPTIMIZERS:
        raise SettingsError(f"--optimizer is {settings['optimizer']!r}, expected one of {', '.join(OPTIMIZERS)}")
    if not 0 < settings["learning_rate"] < math.inf:
        raise SettingsError(f"--learning-rate is {settings['learning_rate']:g}, expected a number above 0")
    if not 0 <= settings["proximal"] < math.inf:
        raise SettingsError(f"--proximal is {settings['proximal']:g}, expected a number from 0")
    if settings["momentum"] and settings["optimizer"] != "sgd":
        raise SettingsError(f"--momentum belongs to sgd, not to {settings['optimizer']}")
    if not 0 <= settings["momentum"] < 1:
        raise SettingsError(f"--momentum is {settings['momentum']:g}, expected a number from 0 to below 1")
    same = ("batch_size", "patience", "optimizer", "learning_rate", "momentum", "proximal", "metric")
    plan = {name: settings[name] for name in same}
    return plan | {"epochs": settings["epochs"] or EPOCHS[publish], "publish": publish}

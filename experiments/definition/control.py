"""Control variates as an experiment asks for them: which there are, and what they go with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedssh.rules.policies import Policy
from fedssh.rules.terms import later_than

CONTROLS = ("none", "scaffold")
POLICIES = ("fedavg", "fednova")
NOT_BESIDE = ("server", "clip")  # options of theirs that make another step of what the sites send


def check_control(values: Mapping[str, Any], policy: Policy) -> None:
    """Raise ValueError where control variates are asked for beside what they are not defined for.

    Option II of SCAFFOLD reads a site's mean gradient off how far it went, so its steps must be plain SGD at one rate.

    Args:
        values: Every setting of a run.
    """
    if values["control"] == "none":
        return
    said = f"control {values['control']} goes with"
    if policy.name not in POLICIES:
        raise ValueError(f"{said} the policies {' and '.join(POLICIES)}, not with {policy.name}")
    for option in NOT_BESIDE:
        if option in policy.values:
            raise ValueError(f"{said} no {option} of the policy, found {policy.values[option]}")
    if values["optimizer"] != "sgd":
        raise ValueError(f"{said} plain sgd, not with {values['optimizer']}")
    more = {name: values[name] for name in ("momentum", "proximal") if values[name]} | later_than(values)
    for name, value in more.items():
        raise ValueError(f"{said} plain sgd, found {name} {value}")
    if values["attack"] != "none":
        raise ValueError(f"{said} honest sites, found the attack {values['attack']}")

"""`polyak:K`: K x current + (1 - K) x candidate, an average that moves with every candidate the gate lets through."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.rules.options import SMALL, Option, Values

DOES = "keep x current + (1 - keep) x candidate"
OPTIONS: Mapping[str, Option] = {"keep": Option(SMALL, 0.5, "how much of the current model stays")}
MIXES = True
BY_GATE = True


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """One mix, however old the candidate is."""
    return (1 - float(values["keep"]),)

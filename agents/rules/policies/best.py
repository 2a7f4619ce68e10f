"""`best`: keep the better of the current model and the candidate."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.rules.options import Option, Values

DOES = "keep the better of the current model and the candidate"
OPTIONS: Mapping[str, Option] = {}


def shares(values: Values, staleness: int) -> tuple[float, ...]:
    """The candidate as it is."""
    return (1.0,)

"""`fedavg`: the mean of all updates, weighted by number of examples (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedssh.forms import whole
from fedssh.rules.options import ROUNDS, Option, Values

DOES = "rounds: mean of the updates, weighted by number of examples"
OPTIONS: Mapping[str, Option] = {
    **ROUNDS,
    "cap": Option(whole(1, 10**9), None, "as how many images a site counts at most; 1: all sites alike"),
}


def shares_of(values: Values, examples: Sequence[int]) -> list[float]:
    """As many parts as examples, of which a site may say only so many."""
    cap = int(values.get("cap", max(examples)))
    counted = [min(count, cap) for count in examples]
    if not any(counted):
        raise ValueError(f"the numbers of examples of {len(examples)} updates are {list(examples)}")
    return [count / sum(counted) for count in counted]

"""`fedavg`: the mean of all updates, weighted by number of examples (McMahan et al. 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedssh.forms import one_of, whole
from fedssh.rules.masking import LEAST
from fedssh.rules.options import POSITIVE, ROUNDS, SEALS, Option, Values

DOES = "rounds: mean of the updates, weighted by number of examples"
OPTIONS: Mapping[str, Option] = {
    **ROUNDS,
    "cap": Option(whole(1, 10**9), None, "as how many images a site counts at most; 1: all sites alike"),
    "seal": Option(one_of(*SEALS), None, "masks: nobody sees an update, only their sum; without cap that is 65536"),
    "groups": Option(whole(2, 1000), None, "masks: in how many groups sites are summed and judged [1]"),
    "reach": Option(POSITIVE, None, "masks: how far a weight goes from the release at most [1]"),
}


def least(values: Values) -> int:
    """Under masks, of two each would know the other's."""
    return LEAST if "seal" in values else 1


def shares_of(values: Values, examples: Sequence[int]) -> list[float]:
    """As many parts as examples, of which a site may say only so many."""
    cap = int(values.get("cap", max(examples)))
    counted = [min(count, cap) for count in examples]
    if not any(counted):
        raise ValueError(f"the numbers of examples of {len(examples)} updates are {list(examples)}")
    return [count / sum(counted) for count in counted]

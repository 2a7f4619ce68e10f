"""`median`: of each weight by itself the median of all updates (Yin et al. 2018, definition 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedssh.rules.options import ROUNDS, Option, Values

if TYPE_CHECKING:
    import numpy as np

DOES = "rounds: coordinate-wise median"
OPTIONS: Mapping[str, Option] = ROUNDS


def shares_of(values: Values, examples: Sequence[int]) -> list[float]:
    """All alike, although each weight may come from another update."""
    return [1 / len(examples)] * len(examples)


def combine(values: Values, updates: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """The one in the middle, or the mean of the two that are."""
    from fedssh.rules.averaging import trimmed_mean

    return trimmed_mean(updates, (len(updates) - 1) // 2)

"""`trimmed:N`: of each weight the mean without the N lowest and N highest (Yin et al. 2018, definition 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedssh.forms import whole
from fedssh.rules.options import ROUNDS, Option, Values

if TYPE_CHECKING:
    import numpy as np

DOES = "rounds: coordinate-wise mean without the `trim` lowest and highest"
OPTIONS: Mapping[str, Option] = {
    "trim": Option(whole(1, 1000), 1, "how many are left out at each end"),
    **ROUNDS,
}


def least(values: Values) -> int:
    """One is left."""
    return 2 * int(values["trim"]) + 1


def shares_of(values: Values, examples: Sequence[int]) -> list[float]:
    """All alike, although each weight may come from other updates."""
    return [1 / len(examples)] * len(examples)


def combine(values: Values, updates: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """The mean of what is left of each weight."""
    from fedssh.rules.averaging import trimmed_mean

    return trimmed_mean(updates, int(values["trim"]))

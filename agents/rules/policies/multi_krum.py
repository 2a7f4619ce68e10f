"""`multi-krum:F`: the plain mean of the n - F best by the measure of Krum (Blanchard et al. 2017, with m = n - f)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedssh.rules.options import FAULTY, ROUNDS, Option, Values

if TYPE_CHECKING:
    import numpy as np

DOES = "rounds: mean of all but the `faulty` updates farthest from the others"
OPTIONS: Mapping[str, Option] = {"faulty": FAULTY, **ROUNDS}


def least(values: Values) -> int:
    """2F + 2 < n, as for Krum."""
    return 2 * int(values["faulty"]) + 3


def shares_by(values: Values, distances: np.ndarray) -> list[float]:
    """All alike but the F that are farthest, which have none."""
    from fedssh.rules.averaging import krum_shares

    faulty = int(values["faulty"])
    return krum_shares(distances, faulty, len(distances) - faulty)


def plausible(values: Values, shares: Sequence[float]) -> bool:
    """F updates have no share, whichever they are, and the others the same."""
    faulty = int(values["faulty"])
    keep = len(shares) - faulty
    return sorted(shares) == [0.0] * faulty + [1 / keep] * keep

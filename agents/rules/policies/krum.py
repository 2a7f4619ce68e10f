"""`krum:F`: the update nearest to its n - F - 2 nearest others (Blanchard et al. 2017, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedssh.rules.options import FAULTY, ROUNDS, Option, Values

if TYPE_CHECKING:
    import numpy as np

DOES = "rounds: the update nearest to the others, with `faulty` bad ones"
OPTIONS: Mapping[str, Option] = {"faulty": FAULTY, **ROUNDS}


def least(values: Values) -> int:
    """2F + 2 < n."""
    return 2 * int(values["faulty"]) + 3


def shares_by(values: Values, distances: np.ndarray) -> list[float]:
    """One update is the result."""
    from fedssh.rules.averaging import krum_shares

    return krum_shares(distances, int(values["faulty"]), 1)


def plausible(values: Values, shares: Sequence[float]) -> bool:
    """One update, whichever it is."""
    return sorted(shares) == [0.0] * (len(shares) - 1) + [1.0]

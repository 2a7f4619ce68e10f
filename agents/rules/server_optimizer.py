"""A step from the current model towards what a round's updates say: the server optimizers of rounds. Pure.

What the updates were combined to, minus the model they started from, is a step Δ (a pseudo-gradient with its sign
turned). Without an optimizer the model takes that step. With one it takes

    momentum   m ← β₁m + Δ             model + η·m                   FedAvgM, Hsu, Qi and Brown 2019
    adam       m ← β₁m + (1-β₁)Δ       model + η·m / (√v + τ)        FedAdam, Reddi et al. 2021, algorithm 2
               v ← β₂v + (1-β₂)Δ²
    yogi       m as in adam            as in adam                    FedYogi, the same
               v ← v - (1-β₂)Δ²·sign(v - Δ²)

with η the option `rate`, β₁ `momentum`, β₂ `beta2`, τ `tau`. m starts at 0 and v at τ² (the lower bound that
algorithm 2 gives); as there, nothing is corrected for that start. m and v have the model's names and shapes, so that
they can be kept as model files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fedssh.rules.options import Values


def step(
    values: Values, model: np.ndarray, combined: np.ndarray, state: Sequence[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Take one step; each weight by itself, so that a model may be given in parts.

    Args:
        values: A policy's options: `server` and what belongs to it.
        model: What the updates started from, float32 or float64 of any shape.
        combined: What the updates were combined to, float64 of that shape.
        state: The sets of arrays of `server_start`, float64 of that shape.

    Returns:
        The new model and the new state, float64. Either may be infinite or NaN where the numbers grew too large.

    Raises:
        ValueError: No such optimizer.
    """
    server = values.get("server")
    if server is None:
        return combined, []
    rate, beta1 = float(values["rate"]), float(values["momentum"])
    delta = combined - model
    if server == "momentum":
        momentum = beta1 * state[0] + delta
        return model + rate * momentum, [momentum]
    mean = beta1 * state[0] + (1 - beta1) * delta
    spread = _spread(str(server), float(values["beta2"]), state[1], np.square(delta))
    with np.errstate(invalid="ignore"):  # a negative v, which only a damaged state has, shows in the result as NaN
        moved: np.ndarray = model + rate * mean / (np.sqrt(spread) + float(values["tau"]))
    return moved, [mean, spread]


def _spread(server: str, beta2: float, spread: np.ndarray, square: np.ndarray) -> np.ndarray:
    """V of the adaptive optimizers."""
    share = (1 - beta2) * square
    if server == "adam":
        return beta2 * spread + share
    if server == "yogi":
        grown: np.ndarray = spread - share * np.sign(spread - square)
        return grown
    raise ValueError(f"no server optimizer is called {server!r}")

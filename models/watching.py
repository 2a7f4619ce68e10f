"""Whether a site is taught what it agreed to learn: SplitOut, by the gradients that come back to its part of a network.

Erdogan, Teksen, Celiktenyildiz, Kupcu and Cicek 2024, "SplitOut: Out-of-the-box training-hijacking detection in split
learning via outlier detection" (arXiv 2302.08618, 2023). A coordinator who hijacks a training (Pasquini, Ateniese and
Bernaschi 2021) sends gradients of a loss of her own, and the site's part becomes an encoder of images that she can
decode. A site has labels and images, so it knows what honest gradients look like: it trains the whole network for a
short time on its own, `rehearse`, keeps the gradients by the first weights, and holds those of the split training
against them.

A gradient's Local Outlier Factor (Breunig, Kriegel, Ng and Sander 2000) says how much thinner it is around it than
around its neighbours among the honest ones; training is hijacked when of the last `WINDOW` gradients more are outliers
than not, as in the paper. Two things are not as in the authors' program, which takes as many neighbours as there are
honest gradients less one, and the limit 1.5: with as many the factor of everything is 1 once the honest gradients are
of several lengths, and what is beyond 1.5 here, honest ones of a site with few classes are, too. So there are
`NEIGHBOURS`, and the limit is what a second rehearsal, in another order, reaches with one gradient in twenty.
`Watch(honest)` alone, with `neighbours=None`, is theirs.

    gradients   float32 [n, d]: of the loss by the first weights, as `Part.felt` has it, one row a step
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedssh.models.data.images import Images
from fedssh.models.parts import Part
from fedssh.models.recipe import PLAIN, Recipe

WINDOW = 10  # gradients, of which the most must be outliers
LEAST = 8  # honest gradients; with fewer, what is near and what is not is chance
STEPS = 100  # of a rehearsal
NEIGHBOURS = 10
LIMIT = 1.5  # of the factor, at least; that of scikit-learn, which the authors leave as it is
USUAL = 0.95  # of the gradients of a second rehearsal are within the limit


@dataclass(frozen=True)
class Verdict:
    """What is thought of a gradient.

    Attributes:
        factor: How far it lies from the honest ones: their Local Outlier Factor has 1 among its neighbours.
        outlier: Whether it is none of them.
        outliers, looked: How many of the last `looked` gradients were outliers.
        hijacked: Whether to stop: the most of a whole window are.
        limit: What the factor is held against.
    """

    factor: float
    outlier: bool
    outliers: int
    looked: int
    hijacked: bool
    limit: float = LIMIT

    def __str__(self) -> str:
        return (
            f"{self.outliers} of the last {self.looked} gradients are unlike those of a training here "
            f"(outlier factor {self.factor:.2f}, at most {self.limit:.2f} is usual)"
        )


class Watch:
    """Looks at the gradients of one split training, one after the other.

    Args:
        honest: Gradients of a training here: float32 [n, d], `LEAST` or more.
        second: Of another, which sets the limit; without it, it is `LIMIT`.
        neighbours: By how many a gradient is judged, at most n - 1; None is n - 1.
        window: How many of the last gradients decide.

    Attributes:
        limit: Above it a gradient is an outlier.

    Raises:
        ValueError: They are too few, or not finite.
    """

    def __init__(
        self,
        honest: np.ndarray,
        second: np.ndarray | None = None,
        neighbours: int | None = NEIGHBOURS,
        window: int = WINDOW,
    ) -> None:
        if honest.ndim != 2 or len(honest) < LEAST:
            raise ValueError(f"{len(honest)} honest gradients are too few to judge others by; {LEAST} or more are")
        if not (np.isfinite(honest).all() and (second is None or np.isfinite(second).all())):
            raise ValueError("training here gives gradients that are not finite")
        from sklearn.neighbors import LocalOutlierFactor

        most = len(honest) - 1
        self._honest = LocalOutlierFactor(n_neighbors=min(neighbours or most, most), novelty=True).fit(honest)
        self._last: deque[bool] = deque(maxlen=window)
        self.limit = LIMIT
        if second is not None and len(second):
            self.limit = max(LIMIT, float(np.quantile(-self._honest.score_samples(second), USUAL)))

    def look(self, gradient: np.ndarray) -> Verdict:
        """Judge the next gradient.

        Args:
            gradient: float32 [d]. One that is not finite is an outlier.

        Raises:
            ValueError: It has another length than the honest ones.
        """
        factor = float("inf")
        if np.isfinite(gradient).all():
            factor = -float(self._honest.score_samples(gradient[np.newaxis])[0])
        self._last.append(factor > self.limit)
        outliers, looked = sum(self._last), len(self._last)
        hijacked = looked == self._last.maxlen and 2 * outliers > looked
        return Verdict(factor, factor > self.limit, outliers, looked, hijacked, self.limit)


def rehearsed(
    spec: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    data: Images,
    batch_size: int,
    optimizer: str,
    learning_rate: float,
    momentum: float = 0.0,
    loss: str | None = None,
    recipe: Recipe = PLAIN,
    seed: int = 0,
    steps: int = STEPS,
) -> Watch:
    """A watch for a split training that is to begin, by two rehearsals of it; the arguments are those of `rehearse`.

    It is good for about as many steps as were rehearsed: later ones of an honest training may be unlike the first.
    """
    plan = (batch_size, optimizer, learning_rate, momentum, loss, recipe)
    first, second = (rehearse(spec, weights, data, *plan, seed=[seed, number], steps=steps) for number in range(2))
    return Watch(first, second)


def rehearse(
    spec: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    data: Images,
    batch_size: int,
    optimizer: str,
    learning_rate: float,
    momentum: float = 0.0,
    loss: str | None = None,
    recipe: Recipe = PLAIN,
    seed: Sequence[int] = (0,),
    steps: int = STEPS,
) -> np.ndarray:
    """Train the whole network here for a short time, and keep the gradients by its first weights.

    Args:
        weights: Those that the split training begins with, of the whole network.
        data: The site's own.
        batch_size, optimizer, learning_rate, momentum, loss, recipe: As the split training has them.
        seed: Of the order of the data; another than that of the training, or its first steps are these.
        steps: How many; as often through the data as they need.

    Returns:
        float32 [steps, d].

    Raises:
        ValueError: The first part has nothing to train, or there is no data.
    """
    if not len(data):
        raise ValueError("there is nothing to rehearse with")
    whole = Part(spec, [], 0, optimizer, learning_rate, momentum, loss, recipe)
    whole.load(weights)
    each = -(-len(data) // batch_size)  # steps of an epoch
    whole.fresh(seed[0], -(-steps // each), each)
    found: list[np.ndarray] = []
    while len(found) < steps:
        order = np.random.default_rng([*seed, len(found)]).permutation(len(data))
        for start in range(0, len(order), batch_size)[: steps - len(found)]:
            some = order[start : start + batch_size]
            whole.step(data.images[some], data.labels[some])
            if whole.felt is None:
                raise ValueError(f"{spec['name']} has nothing to train, so no gradient says what it is taught")
            found.append(whole.felt)
    return np.stack(found)

"""How the weights of several models become those of one: arithmetic on arrays, without files and without Keras. Pure.

    mix             (1 - share) x current + share x candidate
    step            current + part x (candidate - base), base being what the candidate was trained from
    gathered        current + part x the mean of several such steps, each from a base of its own
    round_result    what a round's updates become: how much of each, and how each weight is combined, says its policy

Before it is combined, an update may be clipped: its difference from the model it started from is shortened to a norm.
Where a policy takes a longer step than what updates are combined to (`fednova`), that is no longer than this norm, too.
Afterwards a server optimizer may take the step (`server_optimizer`). Statistics, such as the moving variance of batch
normalisation, are no weights to step with: they become what the updates were combined to. Norms and distances go over
all tensors, statistics too, since what they leave out is where somebody would hide. The robust rules do not look at
numbers of examples: those are what a site says of itself, and a faulty one could say a million. For `fedavg` they can
be capped.

Everything is computed in float64, in stretches of at most `SCRATCH` bytes, and rounded to float32 once. A mean of equal
numbers is that number, and no mean lies outside what it is a mean of, also at the ends of float32. The tensors of a
mapping are asked for one at a time, so it may read them from a file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedssh.errors import WeightsError
from fedssh.rules import server_optimizer
from fedssh.rules.options import server_start
from fedssh.rules.shapes import match_shapes

if TYPE_CHECKING:
    from fedssh.rules.policies import Policy

Weights = Mapping[str, np.ndarray]  # float32 arrays by variable path

SCRATCH = 16 << 20  # bytes of one stretch of all updates in float64; two or three of them live at a time
STRETCH = 1 << 16  # weights in a stretch, at most: half a megabyte of float64 stays in the processor's cache


@dataclass(frozen=True)
class RoundResult:
    """What came out of a round.

    Attributes:
        weights: The new model, float32.
        state: The server optimizer's sets of arrays, float32 with the model's names and shapes: none, m, or m and v.
        shares: How much of each update is in the combination; they add up to 1. Under `median` and `trimmed` each
            update counts the same, although each weight may come from another one.
    """

    weights: dict[str, np.ndarray]
    state: list[dict[str, np.ndarray]]
    shares: list[float]


def mix(current: Weights, candidate: Weights, share: float) -> dict[str, np.ndarray]:
    """Go from the current model towards the candidate.

    Args:
        share: How much of the candidate, in 0..1. At 1 and at 0 the result is the candidate or the current model bit
            for bit, in arrays of its own.

    Returns:
        float32 arrays in the order of `current`.

    Raises:
        ValueError: The two do not fit each other, a weight is not finite, or there is no such share.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the candidate's share is {share}, expected a number in 0..1")
    _check(current, current, "the current model")
    _check(current, candidate, "the candidate")
    mixed = {name: np.empty(tensor.shape, np.float32) for name, tensor in current.items()}
    for name, part, (old, new) in _stretches([current, candidate]):
        mixed[name].reshape(-1)[part] = weighted_mean([old, new], [1 - share, share])
    return mixed


def step(
    current: Weights, candidate: Weights, base: Weights, part: float, statistics: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Add a part of what a site changed to the current model.

    Args:
        base: What the candidate was trained from.
        part: How much of the difference between the two, in 0..1.
        statistics: The names of the tensors that no gradient changes: these are mixed.

    Returns:
        float32 arrays in the order of `current`.

    Raises:
        ValueError: The three do not fit each other, a weight is not finite before or after, or there is no such part.
    """
    if not 0 <= part <= 1:
        raise ValueError(f"the part of the step is {part}, expected a number in 0..1")
    _check(current, current, "the current model")
    _check(current, candidate, "the candidate")
    _check(current, base, "what the candidate started from")
    moved = {name: np.empty(tensor.shape, np.float32) for name, tensor in current.items()}
    for name, where, (old, new, before) in _stretches([current, candidate, base]):
        if name in statistics:
            result = weighted_mean([old, new], [1 - part, part])
        else:
            result = np.subtract(new, before, dtype=np.float64)
            result *= part
            result += old
        with np.errstate(over="ignore"):  # found by the check of the result
            moved[name].reshape(-1)[where] = result
    _check(current, moved, "the step's result")
    return moved


def gathered(
    current: Weights, steps: Sequence[tuple[Weights, Weights]], part: float, statistics: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Add a part of the mean of what several sites changed to the current model.

    Args:
        steps: Of each the candidate and what it was trained from; at least one.
        part: How much of the mean; above 0, and above 1 for more than all of it.
        statistics: The names of the tensors that no gradient changes: they go so far towards their mean, at most to it.

    Returns:
        float32 arrays in the order of `current`.

    Raises:
        ValueError: Some do not fit each other, or a weight is not finite, before or after.
    """
    if not part > 0 or not steps:
        raise ValueError(f"there are {len(steps)} steps, of whose mean {part} shall be added")
    _check(current, current, "the current model")
    for candidate, base in steps:
        _check(current, candidate, "a candidate")
        _check(current, base, "what a candidate started from")
    moved = {name: np.empty(tensor.shape, np.float32) for name, tensor in current.items()}
    models = [current, *(model for pair in steps for model in pair)]
    for name, where, (old, *rest) in _stretches(models):
        candidates, bases = rest[::2], rest[1::2]
        if name in statistics:
            most = min(part, 1.0)
            result = weighted_mean([old, *candidates], [1 - most, *[most / len(steps)] * len(steps)])
        else:
            result = np.zeros(old.shape)
            for new, before in zip(candidates, bases, strict=True):
                result += np.subtract(new, before, dtype=np.float64)
            result *= part / len(steps)
            result += old
        with np.errstate(over="ignore"):  # found by the check of the result
            moved[name].reshape(-1)[where] = result
    _check(current, moved, "the step's result")
    return moved


def round_result(
    policy: Policy,
    base: Weights,
    updates: Sequence[Weights],
    examples: Sequence[int],
    state: Sequence[Weights],
    statistics: Collection[str] = (),
) -> RoundResult:
    """Combine the updates of a round as a policy says, and take the server optimizer's step.

    Args:
        policy: One with rounds.
        base: The model that the updates started from.
        updates: What the sites sent, sorted by site: where Krum finds two equally good, the first one counts
            (Blanchard et al. 2017, section 4, choose the smallest identifier, too).
        examples: The number of training examples behind each update.
        state: What the last accepted round returned; [] in the first one.
        statistics: The names of the tensors that no gradient changes, as the architecture built here has them. The
            server optimizer leaves them out; their part of its state stays as it is.

    Raises:
        ValueError: Too few updates for the rule, one that does not fit the base, weights that are not finite before or
            after, no examples, or a state of another optimizer. The message names the update by its place, from 1.
    """
    shares = _check_round(policy, base, updates, examples, state)
    scales = [clip_scale(base, update, _clip(policy)) for update in updates]
    if shares is None:
        shares = policy.shares_by(_squared_distances(base, updates, scales))
    first, length = server_start(policy.values), _length(policy, base, updates, examples, scales, shares)
    weights, *sets = [{name: np.empty(base[name].shape, np.float32) for name in base} for _ in range(1 + len(first))]
    for name, part, (model, *rest) in _stretches([base, *updates, *state]):
        combined = _combine(policy, _clipped(model, rest[: len(updates)], scales), shares)
        old = [array.astype(np.float64) for array in rest[len(updates) :]]
        old = old or [np.full(model.shape, number) for number in first]
        still = name in statistics
        if length != 1 and not still:
            combined = model + length * (combined - model)
        moved, new = (combined, old) if still else server_optimizer.step(policy.values, model, combined, old)
        with np.errstate(over="ignore"):  # found by the check of the result
            for target, array in zip((weights, *sets), (moved, *new), strict=True):
                target[name].reshape(-1)[part] = array
    _check(base, weights, "the result of the round")
    for kept in sets:
        _check(base, kept, "the new state of the server optimizer")
    return RoundResult(weights, sets, shares)


def bearing(base: Weights, updates: Sequence[Weights]) -> list[tuple[float, float | None]]:
    """How updates lie to each other: of each its length, and the median of its cosines with the others.

    Lengths and angles are of differences from the base, all tensors together, before any are clipped. The median is
    that of the pairs, so that a minority's direction is its own affair. Four digits, which is what records say.

    Returns:
        Of each update (length, cosine); cosine is None where an update, or every other one, is the base itself.
    """
    squares = _squared_distances(base, [base, *updates], [1.0] * (1 + len(updates)))
    lengths = np.sqrt(squares[0, 1:])
    inner = (squares[0, 1:, None] + squares[0, None, 1:] - squares[1:, 1:]) / 2
    found: list[tuple[float, float | None]] = []
    for own, length in enumerate(lengths):
        others = [
            float(np.clip(inner[own, other] / (length * lengths[other]), -1, 1))
            for other in range(len(updates))
            if other != own and length > 0 and lengths[other] > 0
        ]
        found.append((float(f"{length:.4g}"), round(float(np.median(others)), 4) if others else None))
    return found


def clip_scale(base: Weights, update: Weights, norm: float) -> float:
    """What to multiply an update's difference from its base with, so that it is no longer than a norm: 1 or less.

    Args:
        norm: Of all tensors together, Euclidean; infinity changes nothing.
    """
    if norm == math.inf:
        return 1.0
    squared = 0.0
    for _, _, (old, new) in _stretches([base, update]):
        difference = np.subtract(new, old, dtype=np.float64)
        squared += float(np.einsum("i,i->", difference, difference))
    length = math.sqrt(squared)
    return norm / length if length > norm else 1.0


def weighted_mean(values: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """The sum of arrays times their shares, in float64; what has no share is left out, so one share of 1 is exact."""
    (first, share), *others = [pair for pair in zip(values, shares, strict=True) if pair[1]]
    total: np.ndarray = np.multiply(first, share, dtype=np.float64)
    product = np.empty_like(total)
    for array, share in others:
        total += np.multiply(array, share, out=product, dtype=np.float64)
    return total


def trimmed_mean(values: Sequence[np.ndarray], trim: int) -> np.ndarray:
    """Of each weight the mean without the lowest and the highest ones. With all but one or two trimmed: the median.

    Args:
        values: n arrays [weights].
        trim: How many of each end, less than n / 2.

    Returns:
        float64 [weights].
    """
    # [weights, n]: numbers that lie side by side sort three to six times faster than np.median finds their middle
    ordered = np.stack(values, axis=-1)
    ordered.sort(axis=-1)
    mean: np.ndarray = ordered[:, trim : len(values) - trim].mean(axis=-1, dtype=np.float64)
    return mean


def krum_shares(distances: np.ndarray, faulty: int, keep: int) -> list[float]:
    """Give equal shares to the best updates by the score of Krum.

    An update's score is the sum of the squared distances to its n - faulty - 2 nearest others; low is good. Of equal
    scores the first one is better.

    Args:
        distances: float64 [n, n], squared, with zeros on the diagonal; n at least faulty + 3.
        faulty: How many updates may be anything.
        keep: How many are best; 1 is Krum.
    """
    others = len(distances) - faulty - 2
    scores = np.sort(distances, axis=1)[:, 1 : 1 + others].sum(axis=1)  # [:, 0] is its distance to itself
    best = set(np.argsort(scores, kind="stable")[:keep].tolist())
    return [1 / keep if place in best else 0.0 for place in range(len(distances))]


def _squared_distances(base: Weights, updates: Sequence[Weights], scales: Sequence[float]) -> np.ndarray:
    """Between every two updates; float64 [n, n].

    Of differences and not of a product of matrices: equal updates have distance 0, and no order of them rounds
    differently.
    """
    from scipy.spatial.distance import pdist, squareform

    pairs = np.zeros(len(updates) * (len(updates) - 1) // 2)
    for _, _, (model, *values) in _stretches([base, *updates]):
        points = np.stack(_clipped(model, values, scales), dtype=np.float64)
        pairs += pdist(points, "sqeuclidean")
    square: np.ndarray = squareform(pairs)
    return square


def _combine(policy: Policy, values: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """A stretch of all updates, n arrays [weights], to float64 [weights]."""
    own = policy.rule.combine
    return own(policy.values, values, shares) if own else weighted_mean(values, shares)


def _stretches(models: Sequence[Weights]) -> Iterator[tuple[str, slice, list[np.ndarray]]]:
    """Go through models side by side: a tensor's name, a stretch of its weights, and these of each model."""
    width = max(1, min(STRETCH, SCRATCH // (8 * len(models))))
    for name in models[0]:
        flat = [each[name].reshape(-1) for each in models]
        for begin in range(0, flat[0].size, width):
            part = slice(begin, begin + width)
            yield name, part, [array[part] for array in flat]


def _clipped(base: np.ndarray, updates: Sequence[np.ndarray], scales: Sequence[float]) -> list[np.ndarray]:
    """Shorten what has a scale below 1, in float64; the others stay as they are."""
    return [
        array if scale == 1 else base + scale * np.subtract(array, base, dtype=np.float64)
        for array, scale in zip(updates, scales, strict=True)
    ]


def _clip(policy: Policy) -> float:
    return float(policy.values.get("clip", math.inf))


def _length(
    policy: Policy,
    base: Weights,
    updates: Sequence[Weights],
    examples: Sequence[int],
    scales: Sequence[float],
    shares: Sequence[float],
) -> float:
    """How many times as long the combined step is taken, so that it is no longer than `clip`; at least once."""
    length, clip = policy.length(examples), _clip(policy)
    if length == 1 or clip == math.inf:
        return length
    squared = 0.0
    for _, _, (model, *values) in _stretches([base, *updates]):
        moved = _combine(policy, _clipped(model, values, scales), shares) - model
        squared += float(np.einsum("i,i->", moved, moved))
    norm = math.sqrt(squared)
    return max(1.0, clip / norm) if length * norm > clip else length


def _check_round(
    policy: Policy, base: Weights, updates: Sequence[Weights], examples: Sequence[int], state: Sequence[Weights]
) -> list[float] | None:
    """Check everything that goes into a round, and return the shares that the numbers of examples give."""
    if not policy.rounds:
        raise ValueError(f"the policy {policy.name} has no rounds")
    if len(updates) < policy.least:
        raise ValueError(f"{policy.text} needs {policy.least} updates or more, there are {len(updates)}")
    if len(examples) != len(updates) or min(examples) < 0:
        raise ValueError(f"the numbers of examples of {len(updates)} updates are {list(examples)}")
    shares = policy.shares_of(examples)
    if len(state) not in (0, len(server_start(policy.values))):
        raise ValueError(f"the state of {policy.text} has {len(state)} sets of arrays")
    _check(base, base, "the model the updates started from")
    for place, update in enumerate(updates, 1):
        _check(base, update, f"update {place} of {len(updates)}")
    for kept in state:
        _check(base, kept, "the state of the server optimizer")
    return shares


def _check(expected: Weights, found: Weights, whose: str) -> None:
    """Check names, shapes and type, and that every weight is finite.

    Raises:
        ValueError: Says whose, and what is wrong.
    """
    try:
        match_shapes(_shapes(found), _shapes(expected))
    except WeightsError as error:
        raise ValueError(f"{whose}: {error}") from None
    bad = total = 0
    for name in found:
        array = found[name]
        if array.dtype != np.float32:
            raise ValueError(f"{whose}: the tensor {name} is {array.dtype}, expected float32")
        bad += array.size - int(np.count_nonzero(np.isfinite(array)))
        total += array.size
    if bad:
        raise ValueError(f"{whose}: {bad:,} of {total:,} weights are not finite")


def _shapes(model: Weights) -> dict[str, tuple[int, ...]]:
    return {name: model[name].shape for name in model}

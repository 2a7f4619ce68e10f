"""Whether sites can go on from a model that scores well enough: the norms of its layers, and a short training. Pure.

A ReLU layer times 2^20 and the layer behind it divided by 2^20 compute what they computed before, to every digit, and
nobody can train them any more: a score alone does not show it. So before a model becomes current, the norm of each
layer is compared with that of the current model and of the first one. Training changes it by a few percent a session.

    within BAND of the current model's and FIRST_BAND of the first one's     nothing more is asked
    more than BOUND away from the current one's                              refused untried
    between                                                                  a short training decides

The short training is that of the plan, on images of the coordinator's own split `train` (`probe`), and done twice from
each model: with the labels as they are, where a model may have nothing left to learn, but must not be ruined; and with
every label moved on by one (numbers mirrored at their mean), where any model that can learn has much to learn. What the
candidate comes to is held against what the current and the first model come to in the same training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BAND = 4.0
FIRST_BAND = 8.0
BOUND = 100.0
RUINED = 0.1  # of the loss of guessing: what a short training may add to the loss
LEARNED = 0.1  # of what the other models learn in it
_STRETCH = 1 << 16

Norms = Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """What was found of a model.

    Attributes:
        sound: Whether sites can go on from it.
        text: What was conspicuous, for the record; empty when nothing was.
    """

    sound: bool = True
    text: str = ""


@dataclass(frozen=True)
class Change:
    """The layer whose norm differs most from that of another model.

    Attributes:
        times: Its norm in units of the other one's; infinite where the other one's is 0.
    """

    layer: str
    times: float

    @property
    def size(self) -> float:
        """How far it is from 1, whichever way."""
        return max(self.times, 1 / self.times) if self.times else math.inf

    def told(self, whose: str) -> str:
        """In words, such as `layer conv1 is 5.2 times as large as the current one`."""
        if not math.isfinite(self.size):
            return f"layer {self.layer} is {'0' if not self.times else 'not 0'}, unlike the {whose} one"
        large = self.times >= 1
        return f"layer {self.layer} is {_times(self.size)} times as {'large' if large else 'small'} as the {whose} one"


@dataclass(frozen=True)
class Trial:
    """Mean losses of a short training, before and after it, on the images that it trained on.

    Attributes:
        kept: With the labels as they are.
        moved: With every label moved on by one.
    """

    kept: tuple[float, float]
    moved: tuple[float, float]

    @property
    def learned(self) -> float:
        """By how much the loss fell that has much to fall."""
        return self.moved[0] - self.moved[1]


def layer_norms(tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The Euclidean norm of each layer, all its tensors together; infinite beyond the range of float32.

    Args:
        tensors: float32 arrays by Keras variable path. They are asked for one at a time.
    """
    squares: dict[str, float] = {}
    for path in tensors:
        flat = tensors[path].reshape(-1)
        stretches = (flat[at : at + _STRETCH] for at in range(0, flat.size, _STRETCH))
        with np.errstate(over="ignore"):
            total = sum(float(np.einsum("i,i->", part, part)) for part in stretches)
        layer = path.rpartition("/")[0] or path
        squares[layer] = squares.get(layer, 0.0) + total
    return {layer: math.sqrt(total) for layer, total in squares.items()}


def largest_change(norms: Norms, others: Norms) -> Change:
    """The layer that differs most; of equal ones the first. A layer that is 0 in both does not differ."""
    changes = [Change(layer, _ratio(norm, others[layer])) for layer, norm in norms.items()]
    return max(changes, key=lambda change: change.size)


def suspect(current: Change, first: Change) -> str:
    """What about the norms of a candidate calls for a short training, in words; empty when nothing does.

    Args:
        current, first: How it differs from the current and from the first model.
    """
    if current.size > BAND:
        return current.told("current")
    return first.told("first") if first.size > FIRST_BAND else ""


def beyond(current: Change) -> bool:
    """Whether a candidate is refused for its norms alone. From 0, every step is infinitely large: that is tried."""
    return current.size > BOUND and (math.isfinite(current.size) or not current.times)


def tried(candidate: Trial, others: Sequence[Trial], guessing: float) -> str:
    """What a short training has shown against a candidate; empty when it can be trained.

    Args:
        others: The same training from the current and from the first model. Of the two, the one that the plan suits
            less sets the measure: where it ruins even an honest model, a candidate cannot be blamed for it.
        guessing: The loss of a model that has learned nothing, such as ln(classes).
    """
    if not all(map(math.isfinite, (*candidate.kept, *candidate.moved))):
        return "training from it ends in numbers that are not finite"
    finite = [one for one in others if all(map(math.isfinite, (*one.kept, *one.moved)))]
    if len(finite) < len(others):
        return ""
    risen = max(0.0, *(one.kept[1] - one.kept[0] for one in others))
    if candidate.kept[1] - candidate.kept[0] > risen + RUINED * guessing:
        return "training ruins it"
    learned = min(one.learned for one in others)
    if learned > 0 and candidate.learned < LEARNED * learned:
        return "nothing can be trained from it"
    return ""


def concluded(conspicuous: str, trouble: str) -> Finding:
    """The finding about a conspicuous candidate after its trial."""
    if trouble:
        return Finding(False, f"{conspicuous}, and {trouble}")
    return Finding(True, f"{conspicuous}, and can be trained")


def _ratio(norm: float, other: float) -> float:
    if norm == other:
        return 1.0
    return norm / other if other else math.inf


def _times(number: float) -> str:
    if number >= 1e9:
        return "over 1,000,000,000"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

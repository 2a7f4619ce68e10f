"""What a network is trained for, as its spec says it. Pure.

    classes       `classes`: 2 or more; an image is of one of them. What a spec without `task` is for
    labels        "task": "labels", `labels`: 1 or more, each of which an image has or has not
    regression    "task": "regression", `targets`: a list with {"mean", "deviation"} of each number that is predicted

Numbers are predicted in units of the target's deviation above its mean, so that a network trains as well on grams as on
years. Both figures are those of the coordinator's training images and part of the spec, so every site has the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

CLASSES, LABELS, REGRESSION = "classes", "labels", "regression"
TASKS = (CLASSES, LABELS, REGRESSION)
SEVERAL = (LABELS, REGRESSION)  # of which an image has a row of labels
MEASURES = {CLASSES: "accuracy", LABELS: "accuracy", REGRESSION: "mae"}  # what a site tells of a model beside its loss
_MEMBERS = {CLASSES: ("classes",), LABELS: ("task", "labels"), REGRESSION: ("task", "targets")}


def task_of(spec: Mapping[str, Any]) -> str:
    """What a network with this spec is for.

    Raises:
        ValueError: It is none that is known here.
    """
    task = spec.get("task", CLASSES)
    if task not in TASKS or ("task" in spec and task == CLASSES):
        known = ", ".join(one for one in TASKS if one != CLASSES)
        raise ValueError(f"the task of the network is {task!r}, known are {known}, or none for classes")
    return str(task)


def members(task: str) -> tuple[str, ...]:
    """The members of a spec that say its task."""
    return _MEMBERS[task]


def number_of(spec: Mapping[str, Any]) -> int:
    """How many classes a network tells apart, or how many labels or numbers it predicts."""
    task = task_of(spec)
    return len(spec["targets"]) if task == REGRESSION else int(spec[task])


def measure_of(spec: Mapping[str, Any]) -> str:
    """What a site measures beside the loss: the name of the metric."""
    return MEASURES[task_of(spec)]


def guessing(spec: Mapping[str, Any]) -> float:
    """The loss of a network that has learned nothing of its images: equal classes, or every target at its mean."""
    task = task_of(spec)
    return 1.0 if task == REGRESSION else math.log(2 if task == LABELS else spec["classes"])


def shown(spec: Mapping[str, Any]) -> str:
    """What a network is for, as the end of `the network tells …` or `the federation …`."""
    number = number_of(spec)
    task = task_of(spec)
    return f"tells {number} classes apart" if task == CLASSES else f"predicts {outputs(task, number)}"


def outputs(task: str, number: int) -> str:
    """What is predicted, in words: `2 numbers (regression)`."""
    if task == LABELS:
        return f"{number} label{'' if number == 1 else 's'} (several at once)"
    return f"{number} number{'' if number == 1 else 's'} (regression)"


def check_targets(value: Any, most: int) -> list[dict[str, float]]:
    """The targets of a spec; may come from a stranger.

    Raises:
        ValueError: They are none, or a figure is out of range.
    """
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= most:
        raise ValueError(f"targets must be a list of 1 to {most:,} with mean and deviation, found {str(value)[:60]}")
    checked = []
    for one in value:
        if not isinstance(one, Mapping) or set(one) != {"mean", "deviation"} or not all(map(_plain, one.values())):
            raise ValueError(f"a target has a mean and a deviation, found {str(one)[:60]}")
        if not one["deviation"] > 0:
            raise ValueError(f"the deviation of a target is {one['deviation']:g}, expected a number above 0")
        checked.append({"mean": float(one["mean"]), "deviation": float(one["deviation"])})
    return checked


def figures(targets: np.ndarray) -> list[dict[str, float]]:
    """Mean and deviation of each target, of training examples: float [n, targets].

    Raises:
        ValueError: A target is the same for all.
    """
    import numpy as np

    found = []
    for number, column in enumerate(np.asarray(targets, np.float64).T, 1):
        mean, deviation = float(f"{column.mean():.9g}"), float(f"{column.std():.9g}")
        if not deviation > 0:
            raise ValueError(f"target {number} is {mean:g} for every training image: there is nothing to learn")
        found.append({"mean": mean, "deviation": deviation})
    return found


def standardised(targets: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Targets as a network is trained on them: float32 [n, targets]."""
    import numpy as np

    means, deviations = _scale(spec)
    scaled: np.ndarray = ((np.asarray(targets, np.float64) - means) / deviations).astype(np.float32)
    return scaled


def in_units(outputs: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """A network's outputs in the targets' own units: float64 [n, targets]."""
    import numpy as np

    means, deviations = _scale(spec)
    units: np.ndarray = np.asarray(outputs, np.float64) * deviations + means
    return units


def _scale(spec: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    means, deviations = (np.array([one[name] for one in spec["targets"]]) for name in ("mean", "deviation"))
    return means, deviations


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e12

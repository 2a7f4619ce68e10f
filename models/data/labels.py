"""What the labels of a data set are: numbers of classes, several labels at once, or numbers to predict. Pure.

    classes       whole numbers 0, 1, … [n] or [n, 1], or one-hot [n, classes]; names, which are classes by themselves
    labels        0 and 1 for each label, [n, labels]
    regression    any finite numbers [n] or [n, targets]

Nobody has to say which: rows of 0 and 1 are labels where not every row has a single 1; numbers that are no whole
numbers, or floating-point ones that leave gaps between 0 and the largest (as 25.0, 151.0, 346.0), are to be predicted;
all others are classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fedssh.models.data import classes
from fedssh.models.tasks import CLASSES, LABELS, REGRESSION, outputs

MOST = 1e12  # of a target


def task_of(labels: Sequence[np.ndarray]) -> str:
    """What the labels of all splits are, as they are stored."""
    every = [array for array in labels if array.size]
    if not every or any(array.dtype.kind not in "iubf" for array in every):
        return CLASSES
    if any(array.ndim == 2 and array.shape[1] > 1 for array in every):
        if all(bool(np.all((array == 0) | (array == 1))) for array in every):
            return CLASSES if all(bool(np.all(array.sum(axis=1) == 1)) for array in every) else LABELS
        return REGRESSION if all(array.dtype.kind == "f" for array in every) else CLASSES
    if any(array.dtype.kind != "f" for array in every):
        return CLASSES
    values = np.unique(np.concatenate([array.reshape(-1) for array in every]))
    return CLASSES if np.array_equal(values, np.arange(len(values))) else REGRESSION


def task_of_texts(texts: Sequence[str]) -> str:
    """The same of labels that are texts, each with what is said of an image."""
    if any(classes.BETWEEN in text for text in texts):
        return LABELS if all(set(text.split(classes.BETWEEN)) <= {"0", "1"} for text in texts) else REGRESSION
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return CLASSES
    return CLASSES if all(text.isdecimal() for text in texts) else task_of([np.array(numbers)])


def rows(labels: np.ndarray, task: str, where: str) -> np.ndarray:
    """Labels as rows: of several labels at once int64 [n, labels], 0 or 1; else as `targets`.

    Raises:
        ValueError: They are none.
    """
    if task != LABELS:
        return targets(labels, where)
    if labels.dtype.kind not in "iubf" or labels.ndim not in (1, 2) or not len(labels):
        raise ValueError(f"{where} is {labels.dtype} of shape {labels.shape}, expected 0 and 1 [n, labels]")
    table = labels.reshape(len(labels), -1)
    if bad := int(np.count_nonzero((table != 0) & (table != 1))):
        raise ValueError(f"{where} has {bad:,} values that are neither 0 nor 1: these are no labels of several at once")
    return table.astype(np.int64)


def targets(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels as numbers to predict: float32 [n, targets].

    Raises:
        ValueError: They are none.
    """
    if labels.dtype.kind not in "iubf" or labels.ndim not in (1, 2) or not len(labels):
        raise ValueError(f"{where} is {labels.dtype} of shape {labels.shape}, expected numbers [n] or [n, targets]")
    table = labels.reshape(len(labels), -1).astype(np.float64)
    if bad := int(np.count_nonzero(~(np.abs(table) <= MOST))):
        raise ValueError(f"{where} has {bad:,} values that are no finite numbers up to {MOST:g}")
    return table.astype(np.float32)


def numbers(texts: Sequence[str], where: str, task: str = REGRESSION) -> np.ndarray:
    """The same of labels that are texts, each with the numbers of an image."""
    found = []
    for text in texts:
        try:
            found.append([float(part) for part in text.split(classes.BETWEEN)])
        except ValueError:
            expected = "a number" if task == REGRESSION else "0 or 1"
            raise ValueError(
                f"{where} has the label {classes.shown(text)!r}, expected {expected}: the task is {task}, and these "
                "labels are names of classes"
            ) from None
    return rows(np.array(found).reshape(len(found), -1), task, where)


def in_order(own: Sequence[str] | None, number: int, agreed: Sequence[str] | None, given: Mapping[str, str],
             there: int, where: str, task: str = REGRESSION) -> list[int]:  # fmt: skip
    """Which of a data set's targets or labels is each of the federation's.

    Args:
        own: What its targets are called, if anything.
        number: How many the federation has.
        agreed: What these are called, if anything.
        given: The federation's name by the data set's own.
        there: How many the data set has.
        where: For messages.

    Raises:
        classes.NamesError: They are called otherwise.
        ValueError: There are not so many.
    """
    if own is not None and len(own) != there:
        called = ", ".join(map(classes.shown, own[: classes.SHOWN]))
        raise ValueError(f"{where}: the labels are classes ({called}), the federation predicts {outputs(task, number)}")
    if there != number and (own is None or agreed is None):
        raise ValueError(f"{where} has {outputs(task, there)} for each image, the federation {outputs(task, number)}")
    if own is None or agreed is None:
        return list(range(number))
    held = classes.hold(own, agreed, given)
    if missing := [name for at, name in enumerate(held.names) if at not in held.numbers]:
        raise classes.NamesError(
            f"known here of each image are {', '.join(map(classes.shown, held.own))}, the federation also predicts "
            f"{', '.join(map(classes.shown, missing))}",
            "a site needs all of them; --classes HERE=AGREED says what one is called here",
        )
    return [held.numbers.index(at) for at in range(number)]

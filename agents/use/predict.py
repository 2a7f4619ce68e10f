"""What a model says of images: one row for each, with the probability of every class, or the numbers predicted."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fedssh.models import build, get_weights, set_weights, tasks
from fedssh.models.backend import compiled, load_keras
from fedssh.use.decide import Decision
from fedssh.weights import read_weights

if TYPE_CHECKING:
    from fedssh.models.data.unlabelled import One

BATCH = 64
MOST_PROBABLE = Decision()


@dataclass(frozen=True)
class Said:
    """What a model says of one image.

    Attributes:
        name: Of the image.
        label: The class with the largest probability; None where the image could not be read, or there are no classes.
        probabilities: float [classes]; of a regression the numbers, in their own units; empty as above.
        error: Why it could not be read.
    """

    name: str
    label: int | None
    probabilities: tuple[float, ...]
    error: str | None = None


class Predictor:
    """A network with the weights of a model file.

    Args:
        spec: Its architecture.
        model: A model file, checked by whoever calls.
    """

    def __init__(self, spec: dict[str, Any], model: Path) -> None:
        load_keras()  # first: it keeps to the log what native code says while it loads
        import tensorflow

        self._spec = spec
        self._regression = tasks.task_of(spec) == tasks.REGRESSION
        self._classes = tasks.task_of(spec) == tasks.CLASSES
        self._network = build(spec)
        shapes = {name: tuple(array.shape) for name, array in get_weights(self._network).items()}
        set_weights(self._network, read_weights(model, shapes))
        shape = tensorflow.TensorSpec((BATCH, *spec["input"]), "float32")
        self._forward = compiled(lambda batch: self._network(batch, training=False), [shape])

    def predict(self, images: Iterable[One], progress: Callable[[int], None] = lambda done: None) -> Iterator[Said]:
        """What it says of each image, in their order.

        Args:
            progress: Called with the number of images done, after each batch.
        """
        done, waiting = 0, list[Any]()
        for one in images:
            waiting.append(one)
            if len(waiting) == BATCH:
                yield from self._batch(waiting)
                done += len(waiting)
                waiting.clear()
                progress(done)
        if waiting:
            yield from self._batch(waiting)
            progress(done + len(waiting))

    def _batch(self, images: Sequence[One]) -> Iterator[Said]:
        readable = [one.pixels for one in images if one.pixels is not None]
        table = iter(self._probabilities(np.stack(readable)) if readable else ())
        for one in images:
            if one.pixels is None:
                yield Said(one.name, None, (), one.error)
                continue
            row = next(table)
            label = int(row.argmax()) if self._classes else None
            yield Said(one.name, label, tuple(float(value) for value in row))

    def _probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [n, height, width, channels] -> float64 [n, classes] or [n, targets]."""
        filled = np.zeros((BATCH, *pixels.shape[1:]), np.float32)
        filled[: len(pixels)] = pixels
        found = np.asarray(self._forward(filled).numpy()[: len(pixels)], np.float64)
        if self._regression:
            return tasks.in_units(found, self._spec)
        if self._classes and self._spec["classes"] == 2 and found.shape[1] == 1:
            return np.concatenate([1 - found, found], axis=1)
        return found


@dataclass
class Totals:
    """How many images were called what."""

    called: Counter[str]
    unreadable: int = 0


def write_csv(
    rows: Iterable[Said], names: Sequence[str], sink: IO[str], decision: Decision = MOST_PROBABLE, first: str = "file"
) -> Totals:
    """Write a table: file, class, a probability for each class, and why a file could not be read.

    Args:
        names: What the classes are called, in label order.
        decision: What an image is called, and how probabilities are shown.
        first: What the column of names is called.
    """

    def cells(found: tuple[float, ...]) -> tuple[list[str], list[str]]:
        called = names[decision.label(found)]
        return [called, *(f"{value:.6f}" for value in decision.shown(found))], [called]

    return _write(rows, sink, [first, "class", *(f"p({name})" for name in names)], cells)


def write_numbers(rows: Iterable[Said], names: Sequence[str], sink: IO[str], first: str = "file") -> Totals:
    """Write a table of a regression: file, a number for each target, and why a file could not be read.

    Args:
        names: What the targets are called.
        first: What the column of names is called.
    """

    def cells(found: tuple[float, ...]) -> tuple[list[str], list[str]]:
        return [f"{value:.7g}" for value in found], ["predicted"]

    return _write(rows, sink, [first, *names], cells)


def write_labels(rows: Iterable[Said], names: Sequence[str], sink: IO[str], first: str = "file") -> Totals:
    """Write a table of several labels at once: file, yes or no and a probability for each, and why there is none.

    Args:
        names: What the labels are called.
        first: What the column of names is called.
    """

    def cells(found: tuple[float, ...]) -> tuple[list[str], list[str]]:
        said = [value > 0.5 for value in found]
        shown = [*("yes" if has else "no" for has in said), *(f"{value:.6f}" for value in found)]
        return shown, [name for name, has in zip(names, said, strict=True) if has]

    return _write(rows, sink, [first, *names, *(f"p({name})" for name in names)], cells)


def _write(
    rows: Iterable[Said],
    sink: IO[str],
    head: Sequence[str],
    cells: Callable[[tuple[float, ...]], tuple[list[str], list[str]]],
) -> Totals:
    """Write a table with a last column for what could not be read.

    Args:
        head: What the other columns are called.
        cells: Of what was predicted, those after the name, and what it is counted as.
    """
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*head, "error"])
    totals = Totals(Counter())
    for one in rows:
        if one.error is not None:
            totals.unreadable += 1
            writer.writerow([one.name, *("" for _ in head[1:]), one.error])
            continue
        shown, called = cells(one.probabilities)
        totals.called.update(called)
        writer.writerow([one.name, *shown, ""])
    return totals


def target_names(genesis: Mapping[str, Any]) -> list[str]:
    """What a federation calls its targets or labels; numbered where it has no names, and just so where there is one."""
    spec = genesis["spec"]
    number, word = tasks.number_of(spec), "label" if tasks.task_of(spec) == tasks.LABELS else "target"
    numbered = [word] if number == 1 else [f"{word} {place}" for place in range(1, number + 1)]
    return list(genesis.get("class_names") or numbered)


def class_names(genesis: Mapping[str, Any]) -> list[str]:
    """What a federation calls its classes; numbers where it has no names."""
    named = genesis.get("class_names")
    return list(named) if named else [str(number) for number in range(genesis["spec"]["classes"])]

"""What there is to say of the contents of a data set, sorted by what it means for training. Pure.

error      it keeps the set from training
warning    it trains, and a person should know what that is worth
note       what will be done to the images
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedssh.models.data import classes, dicom
from fedssh.models.data.classes import NamesError, shown
from fedssh.models.data.contents import Contents
from fedssh.models.data.folders import DICOM, SPLITS
from fedssh.models.data.labels import in_order
from fedssh.models.data.pixels import Changes, Size
from fedssh.models.data.reading import Reading
from fedssh.models.tasks import CLASSES, LABELS, SEVERAL

ERROR, WARNING, NOTE = "error", "warning", "note"
UNEVEN = 10.0  # the largest class to the smallest, from which on it is said
FEW = 4  # names in a line for people


@dataclass(frozen=True)
class Remark:
    """One thing to say."""

    level: str
    text: str
    hint: str | None = None


def remarks(found: Contents) -> Iterator[Remark]:
    """What is wrong with a data set by itself, or worth knowing."""
    if found.failure:
        yield Remark(ERROR, found.failure, found.hint)
    for kind, names in sorted(found.wrong.items()):
        hint = dicom.INSTALL if kind == DICOM else "take them out, or put whole ones in their place"
        yield Remark(ERROR, f"{len(names):,} {kind}: {_few(names)}", hint)
    if not found.total:
        if not found.failure:
            hint = "a folder of images per class, an .npz file or a table"
            yield Remark(ERROR, f"there are no {found.unit} that can be read", hint)
        return
    yield from _uneven(found) if found.task == CLASSES else spread(found)
    if found.unlabelled:
        counted = f"{found.unlabelled:,} {found.unit} more have no label and are counted nowhere else"
        yield Remark(NOTE, counted, "a plan with unlabelled=fixmatch learns from them")
    yield from _alike(found)
    if both := [name for name, splits in found.patients.items() if len(splits) > 1]:
        who = _number(both, "patient has", "patients have")
        text = f"{who} {found.unit} in more than one split: {_few(sorted(both))}"
        yield Remark(WARNING, text, "a score on patients that were trained on says nothing of new ones")
    yield from _columns(found)
    for line in filter(None, [*found.told, found.ignored]):
        yield Remark(NOTE, line)


def agreement(found: Contents, number: int, reading: Reading) -> Iterator[Remark]:
    """What becomes of the classes, held against the federation's by `reading`.

    Args:
        number: How many classes the network tells apart.
    """
    own = found.names
    if found.task in SEVERAL or reading.task in SEVERAL:
        yield from _targets(found, number, reading)
        return
    totals = _by_class(found)
    labels = [name for name in totals if name.isdecimal()] if own is None else []
    try:
        if reading.held:
            known = reading.names if reading.names is not None else classes.numbered(number)
            ours = own if own is not None else classes.numbered(max(map(int, labels), default=0) + 1)
            held = classes.hold(ours, known, reading.given)
            if line := held.told([totals[name] for name in held.own]):
                yield Remark(NOTE, line)
            return
    except NamesError as error:
        yield Remark(ERROR, str(error), error.hint)
        return
    there = len(own) if own is not None else max(map(int, labels), default=0) + 1
    if there > number or (own is not None and there != number):
        yield Remark(ERROR, f"there are {there} classes here, the network tells {number} apart")


def _targets(found: Contents, number: int, reading: Reading) -> Iterator[Remark]:
    """What becomes of numbers to predict."""
    there = next((table.shape[1] for table in found.targets.values()), 0)
    try:
        in_order(found.names, number, reading.names, reading.given, there, "the data here", found.task)
    except NamesError as error:
        yield Remark(ERROR, str(error), error.hint)
    except ValueError as error:
        yield Remark(ERROR, str(error))


def spread(found: Contents) -> Iterator[Remark]:
    """What the numbers to predict are."""
    for split in SPLITS:
        table = found.targets.get(split, np.empty((0, 0)))
        for at, column in enumerate(table.astype(np.float64).T if len(table) else ()):
            if found.task == LABELS:
                name = shown(found.names[at]) if found.names else f"label {at}"
                yield Remark(NOTE, f"{split}: {int(column.sum()):,} of {len(column):,} images have {name}")
                continue
            unnamed = "the target" if table.shape[1] == 1 else f"target {at + 1}"
            name = shown(found.names[at]) if found.names else unnamed
            text = (
                f"{split}: {name} is {column.min():g} to {column.max():g}, mean {column.mean():.4g}, deviation "
                f"{column.std():.4g}"
            )
            yield Remark(NOTE, text)


def resizing(found: Contents, wanted: Size) -> Iterator[Remark]:
    """What is done to images that are not of the size and channels that the network takes."""
    if strange := sorted({size[2] for size in found.sizes if wanted[2] not in (1, 3, size[2])}):
        many = ", ".join(map(str, strange))
        yield Remark(ERROR, f"images of {many} channels cannot become the {wanted[2]} that the network takes")
    elif line := Changes(found.sizes).told(wanted):
        yield Remark(NOTE, line)


def memory(found: Contents, wanted: Size) -> dict[str, int]:
    """Bytes of each split as the network sees it: four for each number."""
    height, width, channels = wanted
    return {split: counts.total() * height * width * channels * 4 for split, counts in found.counts.items()}


def ratio(counts: Mapping[str, int]) -> float | None:
    """How many times the smallest class goes into the largest; None with fewer than two."""
    there = [number for number in counts.values() if number]
    return max(there) / min(there) if len(there) > 1 else None


def _uneven(found: Contents) -> Iterator[Remark]:
    every = set(_by_class(found)) | set(found.names or ())
    for split in SPLITS:
        counts = found.counts.get(split)
        if counts is None:
            continue
        if missing := sorted(name for name in every if not counts[name]):
            yield Remark(WARNING, f"{split} has no {found.unit} of {_few(missing)}", _MISSING.get(split))
        if (uneven := ratio(counts)) and uneven >= UNEVEN and split != "test":
            most, least = (pick(counts, key=lambda name: counts[name]) for pick in (max, min))
            text = f"{split} has {uneven:.0f} times as many {found.unit} of {shown(most)} as of {shown(least)}"
            yield Remark(WARNING, text, "accuracy hides a class that is always missed; `--metric auc` does not")


_MISSING = {"val": "what is missing is never scored", "train": "what is missing is never learnt"}


def _alike(found: Contents) -> Iterator[Remark]:
    one = found.unit[:-1]
    between: dict[tuple[str, ...], list[str]] = {}
    within: dict[str, list[str]] = {}
    differing = []
    for group in found.alike:
        splits = Counter(split for split, _, _ in group)
        names = " = ".join(name for _, _, name in group[:3])
        if len(splits) > 1:
            between.setdefault(tuple(split for split in SPLITS if split in splits), []).append(names)
        for split, number in splits.items():
            if number > 1:
                within.setdefault(split, []).append(names)
        if len({category for _, category, _ in group}) > 1:
            differing.append(names)
    for where, groups in between.items():
        text = f"{_number(groups, f'{one} is', f'{found.unit} are')} in {' and '.join(where)} alike: {_few(groups)}"
        yield Remark(WARNING, text, f"a score on {found.unit} that were trained on is too good")
    for split, groups in within.items():
        text = f"{_number(groups, f'{one} is', f'{found.unit} are')} in {split} more than once: {_few(groups)}"
        yield Remark(WARNING, text)
    if differing:
        text = f"{_number(differing, f'{one} has', f'{found.unit} have')} more than one class: {_few(differing)}"
        yield Remark(WARNING, text, "one of the classes is wrong")


def _columns(found: Contents) -> Iterator[Remark]:
    """What is odd in the columns of a table."""
    for one in found.columns:
        name = shown(one.own)
        if one.missing > one.rows / 2:
            yield Remark(WARNING, f"nothing stands in {one.missing:,} of {one.rows:,} rows of the column {name}")
        if one.far is not None:
            text = f"the column {name} reaches {one.far:g}, far from all that the coordinator has"
            yield Remark(WARNING, text, "where that stands for a value that nobody knows, leave the cell empty")
        if one.counting:
            text = f"the column {name} says another whole number in every row"
            hint = f"if it is the number of a case, `charity init --leave-out {name}` passes it over"
            yield Remark(WARNING, text, hint)
        if one.constant:
            yield Remark(NOTE, f"the column {name} says the same in every row")


def _by_class(found: Contents) -> Counter[str]:
    totals: Counter[str] = Counter()
    for counts in found.counts.values():
        totals.update(counts)
    return totals


def _number(those: Sequence[str], one: str, several: str) -> str:
    return f"{len(those):,} {one if len(those) == 1 else several}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 200) for name in names[:FEW]) + (", …" if len(names) > FEW else "")

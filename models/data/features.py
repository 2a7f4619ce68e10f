"""A table of features as a data set: its splits and rows, and what the network takes of them.

What a network takes of a row is float32 [1, width, 1], by what the federation has agreed on (`columns`). Where nothing
is agreed yet, the figures are those of the table itself, of the rows to train on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedssh.models.data import cells, columns, figures, frame, holdout, labels, npz
from fedssh.models.data.cells import NUMBER, SHOWN, ColumnsError, few, text_of
from fedssh.models.data.columns import Columns, Wrong
from fedssh.models.data.folders import SPLITS
from fedssh.models.data.frame import Frame
from fedssh.models.data.holdout import Row
from fedssh.models.data.pixels import Size
from fedssh.models.data.reading import Description, Reading
from fedssh.models.tasks import CLASSES, REGRESSION

MOST_CLASSES = 100  # of a table
MOST_NUMBERS = 20  # that look like classes; more whole ones look like numbers to predict


def is_table(path: Path, reading: Reading) -> bool:
    """Whether a path is to be read as a table of features.

    Raises:
        ColumnsError: A table was agreed on, and this is none.
    """
    found = frame.is_table(path, reading.columns, reading.table is not None or reading.target is not None)
    if not found and reading.table is not None and path.exists():
        raise ColumnsError(
            f"the federation learns from a table of features, and {path} is none",
            f"a file with the columns {few(reading.table.names)}; images are for another federation",
        )
    return found


def read(path: Path, reading: Reading) -> Frame:
    """The table, whatever is wrong with it.

    Raises:
        ColumnsError: It lacks the column that is to be predicted, and that is known by name.
        ValueError: It is none.
    """
    agreed, given = reading.table, reading.columns
    if agreed is None:
        return frame.read(path, reading.target, given, reading.features, reading.task)
    taken = [given.get(name, name) for name in agreed.names]
    if "patient" not in given and (patient := frame.called_patient(taken)) is not None:
        raise ColumnsError(
            f"{path}: the federation learns from the column {patient}, by whose name patients are known here",
            "--columns patient=NAME says who is whom, also of the very same column",
        )
    roles = {role: given[role] for role in ("split", "patient") if role in given}
    found = frame.read(path, None, roles, taken, reading.task)
    if found.numbered:
        return found
    own = [*found.features, *([found.target] if found.target else [])]
    target = columns.hold_target(agreed.target, own, given)
    if target is None:  # a column that is only called as labels are may well be another one
        return replace(found, target=None, targets=())
    return found if target == found.target else frame.read(path, target, roles, taken)


def whole(path: Path, reading: Reading) -> Frame:
    """The table, after the holdout was cut where one is to be; every row can be used.

    Raises:
        ValueError: It has rows that cannot be used, or no column that is to be predicted.
    """
    found = read(path, reading)
    if found.target is None:
        there = few([*found.features], 40)
        if reading.table is not None:
            reading.table.hold(found.features, reading.columns, str(path), target=False)
        raise ColumnsError(
            f"{path} has no column that is known to be predicted; its columns are {there}",
            "--target NAME says which; of a table that lists image files, --columns file=NAME,label=NAME",
        )
    frame.refuse(path, found)
    if reading.cut is None:
        return found
    named = rows_of(path, found, reading)
    pool = [at for at, row in enumerate(named) if row.split in holdout.POOL]
    sides = holdout.divide([named[at] for at in pool], reading.cut, str(path))
    splits = list(found.splits)
    for split, side in zip(holdout.POOL, sides, strict=True):
        for place in side:
            splits[pool[place]] = split
    return replace(found, splits=splits)


def rows_of(path: Path, found: Frame, reading: Reading) -> list[Row]:
    """What a holdout is cut out of. Rows are called by what stands in them: equal ones are never on both sides."""
    if reading.patient is not None:
        raise ValueError(f"{path} has no file names for --patient; --columns patient=NAME says which column it is")
    if task_of(path, found, reading) == REGRESSION:
        called = [""] * len(found)
    else:
        names = frame.own_names(found)
        labels = frame.labels_of(found, names) if found.targets else [0] * len(found)
        called = [str(label) if names is None else names[label] for label in labels]
    digests = frame.digests(found, sorted(found.features))
    patients = found.patients or [None] * len(found)
    return [
        Row(split, name, digest.hex()[:32], patient)
        for split, name, digest, patient in zip(found.splits, called, digests, patients, strict=True)
    ]


def task(path: Path, reading: Reading) -> str:
    """What is to be predicted: as somebody says, else what it looks like."""
    return task_of(path, read(path, reading), reading)


def task_of(path: Path, found: Frame, reading: Reading) -> str:
    """The same of a table that was read: many numbers, or some with a fraction or a sign, are no classes."""
    if reading.task is not None:
        return reading.task
    if found.numbered:
        return npz.task(path)
    if cells.kind_of(found.targets) != NUMBER:
        return CLASSES
    values = cells.numbers(found.targets).numbers
    there = np.unique(values[~np.isnan(values)])
    whole = bool(np.all(there >= 0) and np.all(there == np.floor(there)))
    return CLASSES if whole and len(there) <= MOST_NUMBERS else REGRESSION


def targets(path: Path, split: str, reading: Reading) -> np.ndarray:
    """The numbers to predict of one split: float32 [n, 1]."""
    found = whole(path, reading)
    places = [at for at, one in enumerate(found.splits) if one == split]
    return numbers_of(path, found)[places]


def numbers_of(path: Path, found: Frame) -> np.ndarray:
    """The target of each row as a number: float32 [n, 1].

    Raises:
        ColumnsError: Some are none.
    """
    known = cells.numbers(found.targets)
    if len(wrong := np.flatnonzero(np.isnan(known.numbers))):
        lines = few([f"{text_of(found.targets[at])} in {found.lines[at]}" for at in wrong.tolist()], 4)
        raise ColumnsError(
            f"the target {found.target} of {path} is to be a number, and is none in {len(wrong):,} rows: {lines}",
            "mend them, or take these rows out; points, not commas: 3.5",
        )
    return labels.targets(known.numbers, f"the target {found.target} of {path}")


def splits(path: Path, reading: Reading) -> tuple[str, ...]:
    """Which of train, val and test there are."""
    there = set(read(path, reading).splits)
    return tuple(split for split in SPLITS if split in there)


def rows(path: Path, reading: Reading) -> list[Row]:
    """The rows of `train` and `val`, see `images.rows`."""
    found = whole(path, reading)
    return [row for split in holdout.POOL for row in rows_of(path, found, reading) if row.split == split]


def names(path: Path, reading: Reading) -> tuple[str, ...] | None:
    """What the classes are called, in label order."""
    return class_names(path, whole(path, reading))


def class_names(path: Path, found: Frame) -> tuple[str, ...] | None:
    """The same of a table that was read.

    Raises:
        ColumnsError: It says too many things to be classes, or only one.
    """
    own = frame.own_names(found)
    if own is not None and len(own) > min(MOST_CLASSES, max(2, len(found) // 2)):
        raise ColumnsError(
            f"the target {found.target} of {path} says {len(own):,} different things in {len(found):,} rows, such as "
            f"{few(own, 3)}: at most {MOST_CLASSES} classes are told apart",
            "--target names a column of classes; --task regression predicts numbers",
        )
    return own


def agreed(path: Path, found: Frame, reading: Reading) -> tuple[Columns, list[str]]:
    """What the federation has agreed on, or would by this table; and a line on each column that is left out.

    The figures are those of `train`; without one, of `val`, and then of all.
    """
    if reading.table is not None:
        return reading.table, []
    there = next(split for split in SPLITS if split in found.splits)
    places = [at for at, split in enumerate(found.splits) if split == there]
    return figures.settle(found, places, reading.features, reading.leave_out, str(path))


def load(
    path: Path, wanted: Size, number: int, split: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, labels and patients of one split, see `images.load`."""
    found = whole(path, reading)
    table, told = agreed(path, found, reading)
    if wanted != (1, table.width, 1):
        raise ValueError(f"{path} makes {table.width} numbers a row, the network takes {wanted[1]}")
    places = [at for at, one in enumerate(found.splits) if one == split]
    if not places:
        raise ValueError(f"{path} has no {split} split")
    if reading.task == REGRESSION:
        if number != 1:
            raise ValueError(f"{path} has one number to predict a row, the network predicts {number}")
        values = encoded(path, found.take(places), table, reading, split)
        return values, numbers_of(path, found)[places], _owners(found, places)
    own = class_names(path, found)
    all_labels = frame.labels_of(found, own)
    here = [all_labels[at] for at in places]
    counts = np.bincount(here, minlength=len(own or ()))
    numbers = reading.numbers(own, number, split, counts.tolist())
    if not reading.held and max(here) >= number:
        raise ValueError(f"{path} has {max(here) + 1} classes, expected {number}")
    kept = [(at, one) for at, label in zip(places, here, strict=True) if (one := numbers[label]) is not None]
    if not kept:
        raise ValueError(f"{path} has no rows of the federation's classes in {split}")
    for line in told:
        reading.tell(line)
    values = encoded(path, found.take([at for at, _ in kept]), table, reading, split)
    return values, np.array([label for _, label in kept], np.int64), _owners(found, [at for at, _ in kept])


def encoded(path: Path, found: Frame, table: Columns, reading: Reading, split: str) -> np.ndarray:
    """The rows as the network takes them.

    Raises:
        ColumnsError: Columns are missing, or cells are not what was agreed.
    """
    places = places_of(path, found, table, reading)
    if reading.table is not None:
        if ignored := [name for name in found.features if name not in places.values()]:
            reading.tell(f"columns not looked at: {few(ignored)}")
        if others := [f"{own} as {name}" for name, own in places.items() if own != name]:
            reading.tell(f"columns: {few(others)}")
    values = table.encode(found.features, places)
    refuse(path, found, values.wrong)
    if values.missing:
        most = sorted(values.missing, key=lambda name: -values.missing[name])
        text = ", ".join(f"{name} in {values.missing[name]:,}" for name in most[:SHOWN])
        reading.tell(f"{split}: of {len(found):,} rows, nothing stands for {text}: the agreed mean, or no category")
    return values.values


def places_of(path: Path, found: Frame, table: Columns, reading: Reading) -> dict[str, str]:
    """The own column for each agreed one."""
    return table.hold(found.features, {} if reading.table is None else reading.columns, str(path))


def refuse(path: Path, found: Frame, wrong: Sequence[Wrong]) -> None:
    """Refuse cells that are not what was agreed, all of them in one message.

    Raises:
        ColumnsError: There are some.
    """
    if wrong:
        lines = "; ".join(told(found, wrong))
        raise ColumnsError(f"{path} has cells that are not what was agreed: {lines}",
                           "mend them; an empty cell counts as not known")  # fmt: skip


def told(found: Frame, wrong: Sequence[Wrong]) -> list[str]:
    """A text for each thing that is wrong in each column, with the rows."""
    by_text: dict[str, list[int]] = {}
    for one in wrong:
        by_text.setdefault(f"{one.column} {one.text}", []).append(one.row)
    texts = [f"{text} ({few([found.lines[at] for at in places], 3)})" for text, places in by_text.items()]
    return texts[:8] + ([f"and {len(texts) - 8:,} more"] if texts[8:] else [])


def describe(path: Path, reading: Reading) -> Description:
    """What the table says of itself."""
    found = whole(path, reading)
    table, left_out = agreed(path, found, reading)
    for line in left_out:
        reading.tell(line)
    sizes = Counter({(1, table.width, 1): len(found)})
    if task_of(path, found, reading) == REGRESSION:
        numbers_of(path, found)
        return Description(sizes, 1, target_names(found, table), task=REGRESSION, table=table)
    own = class_names(path, found)
    number = len(own) if own is not None else max(frame.labels_of(found, own)) + 1
    return Description(sizes, number, own, table=table)


def target_names(found: Frame, table: Columns) -> tuple[str, ...] | None:
    """What is predicted, by the name that was agreed; of arrays what they say, if anything."""
    return found.names if found.numbered else (table.target,)


def _owners(found: Frame, places: Sequence[int]) -> np.ndarray | None:
    """Whose each row is; a row of nobody known is one of its own. None where nobody is known."""
    if found.patients is None or not any(found.patients[at] for at in places):
        return None
    return np.array([f"patient {one}" if (one := found.patients[at]) else found.lines[at] for at in places])


def from_numbers(named: Sequence[str], numbers: np.ndarray) -> Columns:
    """What a federation agrees on whose coordinator trains on these rows: float64 [n, 1, features, 1]."""
    flat = numbers.reshape(len(numbers), -1)
    named_cells: Mapping[str, list[float]] = {name: flat[:, at].tolist() for at, name in enumerate(named)}
    made = Frame(named_cells, [""] * len(flat), "label", (), ["train"] * len(flat))
    return figures.settle(made, range(len(flat)))[0]


def encode_numbers(table: Columns, named: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Rows of numbers as the network takes them: float64 [n, 1, features, 1] -> float32 [n, 1, width, 1]."""
    flat = numbers.reshape(len(numbers), -1)
    named_cells = {name: flat[:, at].tolist() for at, name in enumerate(named)}
    return table.encode(named_cells, {name: name for name in named}).values

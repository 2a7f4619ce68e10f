"""What each column of a table says, held against what is agreed where something is: for people, before a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssh.models.data import cells, features, frame
from fedssh.models.data.cells import CATEGORY, NUMBER, few, text_of
from fedssh.models.data.columns import Column
from fedssh.models.data.frame import Frame
from fedssh.models.data.holdout import Row
from fedssh.models.data.reading import Reading
from fedssh.models.tasks import CLASSES, REGRESSION

FAR = 20.0  # deviations from the mean
MANY = 20  # rows of which each has another whole number: perhaps the number of a case


@dataclass(frozen=True)
class ColumnFound:
    """A feature.

    Attributes:
        name: As agreed.
        own: As it is called here.
        kind: number, flag or category.
        rows: How many there are.
        missing: In how many of them nothing stands.
        least, most: Of numbers; None of others.
        categories: Rows of each, of a category.
        far: The value farthest from the mean, where that is more than FAR deviations; else None.
        constant: Whether it says the same in every row.
        counting: Whether it says another whole number in every row.
    """

    name: str
    own: str
    kind: str
    rows: int
    missing: int
    least: float | None = None
    most: float | None = None
    categories: dict[str, int] | None = None
    far: float | None = None
    constant: bool = False
    counting: bool = False


@dataclass(frozen=True)
class Rows:
    """The rows of a table: what each is, what it is called for people, and what its features say.

    Attributes:
        targets: Of a regression, float32 [n, 1].
    """

    names: tuple[str, ...] | None
    task: str
    targets: np.ndarray | None
    rows: Sequence[Row]
    lines: Sequence[str]
    digests: Sequence[bytes]


def look(path: Path, reading: Reading, wrong: dict[str, list[str]]) -> tuple[Rows, list[ColumnFound], int]:
    """Look through a table.

    Args:
        wrong: Gets what cannot be used, by kind.

    Returns:
        Its rows, its features, and how many numbers the network gets of a row.

    Raises:
        ValueError: It is none, or its columns are not what is agreed.
    """
    wrong.update(features.read(path, reading).wrong)
    if wrong:
        return Rows(None, CLASSES, None, (), (), ()), [], 0
    found = features.whole(path, reading)
    task, targets = features.task_of(path, found, reading), None
    table, left_out = features.agreed(path, found, reading)
    if task == REGRESSION:
        own, targets = features.target_names(found, table), features.numbers_of(path, found)
    else:
        own = features.class_names(path, found)
    for line in left_out:
        reading.tell(line)
    places = features.places_of(path, found, table, reading)
    encoded = table.encode(found.features, places)
    if encoded.wrong:
        wrong["cells that are not what was agreed"] = features.told(found, encoded.wrong)
    ignored = [name for name in found.features if name not in places.values()]
    if ignored:
        reading.tell(f"columns not looked at: {few(ignored)}")
    said = [_column(column, places[column.name], found, encoded.missing) for column in table.columns]
    digests = list(frame.digests(found, list(places.values())))
    return Rows(own, task, targets, features.rows_of(path, found, reading), found.lines, digests), said, table.width


def _column(column: Column, own: str, found: Frame, missing: Mapping[str, int]) -> ColumnFound:
    lacking = missing.get(column.name, 0)
    if column.kind == CATEGORY:
        counts: dict[str, int] = {}
        for text in filter(None, map(text_of, found.features[own])):
            counts[text] = counts.get(text, 0) + 1
        constant = len(counts) == 1 and not lacking
        return ColumnFound(column.name, own, column.kind, len(found), lacking, categories=counts, constant=constant)
    read = cells.numbers if column.kind == NUMBER else cells.flags
    values = read(found.features[own]).numbers
    there = values[~np.isnan(values)]
    if not len(there):
        return ColumnFound(column.name, own, column.kind, len(found), lacking)
    distance = np.abs(there - column.mean) / column.deviation
    farthest = float(there[distance.argmax()])
    whole = len(there) >= MANY and len(set(there.tolist())) == len(there) and bool(np.all(there == np.floor(there)))
    return ColumnFound(
        column.name, own, column.kind, len(found), lacking, float(there.min()), float(there.max()),
        far=farthest if distance.max() > FAR else None, constant=float(there.min()) == float(there.max()),
        counting=whole and not lacking,
    )  # fmt: skip

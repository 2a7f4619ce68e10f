"""Rows of a table that nobody has labelled, one after another, as a network takes them.

A row with a cell that is not what was agreed is an answer of its own, so that one of a thousand stops nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fedssh.models.data import frame
from fedssh.models.data.cells import few
from fedssh.models.data.columns import Columns
from fedssh.models.data.unlabelled import One

AT_ONCE = 1024


class NewRows:
    """The rows of a table.

    Args:
        path: A .csv, .tsv, .parquet or .npz file.
        table: What is agreed.
        columns: What `--columns` says: names here by agreed name.

    Raises:
        FileNotFoundError: There is nothing.
        ColumnsError: Columns are missing.
        ValueError: It is no table, or has no rows.
    """

    unit = "rows"

    def __init__(self, path: Path, table: Columns, columns: Mapping[str, str]) -> None:
        self.passed: Counter[str] = Counter()
        self._table = table
        if path.suffix.lower() not in (*frame.TEXTS, *frame.PARQUET, frame.ARRAYS):
            raise ValueError(f"{path} is no table: this model takes rows of a .csv or .parquet file")
        # No column is set aside: whatever a column is called, it is looked at only where it is a feature.
        named = [columns.get(name, name) for name in table.names]
        self._found = frame.read(path, None, {}, named)
        self._places = table.hold(self._found.features, columns, str(path))
        if wrong := self._found.wrong.get(frame.UNEVEN):
            raise ValueError(f"{path} has {len(wrong):,} {frame.UNEVEN}: {few(wrong, 4)}")
        if not len(self._found):
            raise ValueError(f"{path} has no rows")

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[One]:
        for start in range(0, len(self), AT_ONCE):
            part = self._found.take(range(start, min(start + AT_ONCE, len(self))))
            found = self._table.encode(part.features, self._places)
            wrong: dict[int, list[str]] = {}
            for one in found.wrong:
                wrong.setdefault(one.row, []).append(f"{one.column} {one.text}")
            for at, values in enumerate(found.values):
                name = str(start + at + 1)
                yield One(name, None, "; ".join(wrong[at])) if at in wrong else One(name, np.asarray(values))

"""Cells of a table: what kind of column they make, and what number each stands for. Pure.

    number     1, -0.5, 2.5e3; missing where nothing stands, or NA, N/A, NaN, null, None or ? in any letter case
    flag       true and false in any letter case, or truth values; where that is agreed, 1 and 0 are the same
    category   any other text; missing only where nothing stands
    date       2024-05-01, 1.5.2024, 5/1/24, with or without a time; no network takes it
    comma      numbers of which some have a decimal comma; they are refused, since 1,234 may mean a thousand, too
    nothing    no cell has a value

The kind of a column is what all its values are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fedssh.models.data.classes import NamesError, plain, shown

SHOWN = 12
Cell = str | float | bool | None

NUMBER, FLAG, CATEGORY, DATE, COMMA, NOTHING = "number", "flag", "category", "date", "comma", "nothing"
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+", re.ASCII)
_DATE = re.compile(r"(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}([./])\d{1,2}\2(\d{4}|\d{2}))([T ]\d{1,2}:\d{2}.*)?", re.ASCII)
_FLAGS = {"true": 1.0, "false": 0.0}


class ColumnsError(NamesError):
    """Columns do not fit each other, or cannot be used; `hint` says what to write."""


class Read(NamedTuple):
    """Cells as numbers: float64 [n], NaN where nothing stands or something wrong; and the places of what is wrong."""

    numbers: np.ndarray
    wrong: list[int]


def kind_of(cells: Sequence[Cell]) -> str:
    """What kind of column the cells make."""
    there = [cell for cell in cells if not _is_missing(cell)]
    if not there:
        return NOTHING if not any(isinstance(cell, str) and cell for cell in cells) else CATEGORY
    if all(isinstance(cell, bool) or (isinstance(cell, str) and cell.lower() in _FLAGS) for cell in there):
        return FLAG
    if all(_number(cell) is not None for cell in there):
        return NUMBER
    if all(isinstance(cell, str) and _DATE.fullmatch(cell) for cell in there):
        return DATE
    if all(_number(cell) is not None or is_comma(cell) for cell in there):
        return COMMA
    return CATEGORY


def numbers(cells: Sequence[Cell]) -> Read:
    """The cells of a column of numbers."""
    return _read(cells, _number)


def flags(cells: Sequence[Cell]) -> Read:
    """The cells of a column of flags: 1 and 0."""
    return _read(cells, _flag)


def text_of(cell: Cell) -> str:
    """A cell as a name: of a category, a class or a patient. Empty where nothing stands; 1.0 is 1."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return plain(str(cell))


def is_comma(cell: Cell) -> bool:
    """Whether it is a number with a decimal comma."""
    return isinstance(cell, str) and _COMMA.fullmatch(cell) is not None


def few(names: Sequence[str], number: int = SHOWN) -> str:
    """Names for a message."""
    return ", ".join(shown(name) for name in names[:number]) + (", …" if len(names) > number else "")


def _is_missing(cell: Cell) -> bool:
    if isinstance(cell, str):
        return cell.lower() in _MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _number(cell: Cell) -> float | None:
    if isinstance(cell, bool):
        return None
    if isinstance(cell, str):
        cell = float(cell) if _NUMBER.fullmatch(cell) else math.inf
    return None if cell is None or math.isinf(cell) else float(cell)


def _flag(cell: Cell) -> float | None:
    if isinstance(cell, str) and cell.lower() in _FLAGS:
        return _FLAGS[cell.lower()]
    number = float(cell) if isinstance(cell, bool) else _number(cell)
    return number if number in (0, 1) else None


def _read(cells: Sequence[Cell], one: Callable[[Cell], float | None]) -> Read:
    found, wrong = np.full(len(cells), np.nan), []
    for at, cell in enumerate(cells):
        if _is_missing(cell):
            continue
        number = one(cell)
        if number is None:
            wrong.append(at)
        else:
            found[at] = number
    return Read(found, wrong)

"""What a federation agrees on of a table when it begins: which columns, and their figures. Pure.

They are those of the rows that the coordinator trains on. A column that says the same in all of these, or nothing, is
left out. One that nobody can learn from is refused: dates, decimal commas, and texts of many kinds, which are names or
numbers of cases more often than not, and would all stand in the first record.
"""

from __future__ import annotations

import difflib
import json
import math
import shlex
from collections.abc import Sequence

import numpy as np

from fedssh.models.data import cells
from fedssh.models.data.cells import CATEGORY, FLAG, Cell, ColumnsError, few, text_of
from fedssh.models.data.classes import MAX_LETTERS, shown
from fedssh.models.data.columns import MOST_CATEGORIES, MOST_INPUTS, Column, Columns
from fedssh.models.data.frame import Frame

MAX_BYTES = 32_768  # in a record
DIGITS = 9
MANY = 10  # texts of which each is another one are names


def settle(
    frame: Frame, rows: Sequence[int], only: Sequence[str] = (), without: Sequence[str] = (), where: str = "the table"
) -> tuple[Columns, list[str]]:
    """What a federation agrees on: the columns of its coordinator, with the figures of the rows that she trains on.

    Args:
        rows: Their places.
        only: The features that she wants; none are all.
        without: Columns that are none.

    Returns:
        It, and a line on each column that was left out.

    Raises:
        ColumnsError: A column that she named is not there, or one cannot be learnt from.
    """
    chosen = _chosen(frame, only, without, where)
    if frame.odd in chosen and frame.odd not in only:
        raise ColumnsError(
            f"the column {shown(str(frame.odd))} of {where} is called as if it said train, val or test, but says "
            "something else",
            f"--leave-out {frame.odd} passes it over; --features names the ones to learn from",
        )
    found, told = [], []
    for name in chosen:
        column = _settled(name, [frame.features[name][at] for at in rows], where)
        if isinstance(column, str):
            told.append(f"the column {shown(name)} {column}, and is left out")
        else:
            found.append(column)
    columns = Columns(frame.target or "label", tuple(found))
    if not found:
        raise ColumnsError(f"{where} has no column to learn from", "numbers, true and false, or texts of a few kinds")
    size = len(json.dumps(columns.record(), ensure_ascii=False).encode())
    if columns.width > MOST_INPUTS or size > MAX_BYTES:
        raise ColumnsError(
            f"the columns of {where} make {columns.width:,} numbers a row and take {size:,} bytes in the first record, "
            f"which has room for {MOST_INPUTS:,} and {MAX_BYTES:,}",
            "--features names the ones to learn from, --leave-out those to pass over",
        )
    return columns, told


def _chosen(frame: Frame, only: Sequence[str], without: Sequence[str], where: str) -> list[str]:
    there = list(frame.features)
    known = {*there, frame.target}
    for option, names in (("--features", only), ("--leave-out", without)):
        if strange := [name for name in names if name not in known]:
            near = difflib.get_close_matches(strange[0], there, 1)
            raise ColumnsError(
                f"{option}: {where} has no column {few(strange)}; its columns are {few(there, 40)}",
                f"did you mean {near[0]}?" if near else "names with commas between, as they stand in the first line",
            )
    return [name for name in (only or there) if name not in without and name != frame.target]


def _settled(name: str, own: Sequence[Cell], where: str) -> Column | str:
    """A column with its figures, or why it is left out."""
    leave = f"--leave-out {shlex.quote(shown(name))} passes it over"
    kind = cells.kind_of(own)
    column = f"the column {shown(name)} of {where}"
    if len(name) > MAX_LETTERS or not name.isprintable():
        raise ColumnsError(f"the name of {column} is not of 1 to {MAX_LETTERS} letters that can be shown", leave)
    example = shown(str(next((cell for cell in own if text_of(cell)), "")), 40)
    if kind == cells.NOTHING:
        return "says nothing in any row that is trained on"
    if kind == cells.DATE:
        raise ColumnsError(f"{column} holds dates, such as {example}; no network takes them",
                           f"write a number, such as an age or the days since something; {leave}")  # fmt: skip
    if kind == cells.COMMA:
        example = shown(str(next(cell for cell in own if cells.is_comma(cell))))
        raise ColumnsError(f"{column} has decimal commas, such as {example}", "write points: 3.5, not 3,5")
    if kind == CATEGORY:
        return _settled_category(name, own, column, leave)
    values = (cells.flags if kind == FLAG else cells.numbers)(own).numbers
    there = values[~np.isnan(values)]
    mean = math.fsum(there) / len(there)
    deviation = math.sqrt(math.fsum((there - mean) ** 2) / len(there))
    mean, deviation = (float(f"{figure:.{DIGITS}g}") for figure in (mean, deviation))
    if there.min() == there.max() or not deviation:
        return f"says {example} in every row that is trained on"
    return Column(name, kind, mean, deviation)


def _settled_category(name: str, own: Sequence[Cell], column: str, leave: str) -> Column | str:
    said = [text for cell in own if (text := text_of(cell))]
    categories = sorted(set(said))
    if len(categories) == 1 and len(said) == len(own):
        return f"says {shown(categories[0])} in every row that is trained on"
    if wrong := [text for text in categories if len(text) > MAX_LETTERS or not text.isprintable()]:
        raise ColumnsError(
            f"{column} says {shown(wrong[0], 40)}…, not 1 to {MAX_LETTERS} letters that can be shown", leave
        )
    every = len(categories) == len(said) >= MANY
    if every or len(categories) > MOST_CATEGORIES:
        if mixed := _mixed(said):
            raise ColumnsError(f"{column} {mixed}", f"leave a cell empty where nothing is known; {leave}")
        kinds = "another text in every row" if every else f"{len(categories):,} kinds of text"
        raise ColumnsError(
            f"{column} has {kinds}, such as {shown(categories[0], 40)}: a name or a number of a case? At most "
            f"{MOST_CATEGORIES} kinds are taken",
            leave,
        )
    return Column(name, CATEGORY, categories=tuple(categories))


def _mixed(said: Sequence[str]) -> str | None:
    """What is told of a column of numbers with some texts among them."""
    others = [text for text in said if cells.kind_of([text]) not in (cells.NUMBER, cells.NOTHING)]
    return f"has numbers and, among them, texts such as {shown(others[0], 40)}" if len(others) < len(said) / 2 else None

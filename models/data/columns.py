"""What a federation has agreed on of a table: its columns, and how their cells become what the network takes.

    number      (value - mean) / deviation; nothing in a cell is the mean, and so 0
    flag        the same, of 1 for true and 0 for false
    category    a number for each of its categories: 1 for the one that the cell says, 0 for the others; nothing in a
                cell is 0 for all

Figures and categories are those of the rows that the coordinator trains on, computed once, when the federation begins;
every site, and whoever uses the model, takes these. A deviation is of all rows, divided by n; both are rounded to nine
digits. What the coordinator has no figure for does not exist: other columns are passed over, and other categories are
refused, since a spelling that nobody looked at would make a feature vanish.

In a record:

    {"target": NAME, "columns": [{"name", "kind": "number" | "flag", "mean", "deviation"},
                                 {"name", "kind": "category", "categories": [TEXT, …]}, …]}
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedssh.models.data import cells
from fedssh.models.data.cells import CATEGORY, FLAG, NUMBER, Cell, ColumnsError, few, text_of
from fedssh.models.data.classes import MAX_LETTERS, plain, shown

MOST_CATEGORIES = 50
MOST_INPUTS = 4096
ROLES = ("label", "split", "patient")
MAX_FIGURE = 1e30  # of a mean or a deviation; what float32 holds is larger


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        kind: number, flag or category.
        mean, deviation: Of numbers and flags.
        categories: Of a category, in alphabetical order.
    """

    name: str
    kind: str
    mean: float = 0.0
    deviation: float = 1.0
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers the network gets of it."""
        return len(self.categories) if self.kind == CATEGORY else 1

    def record(self) -> dict[str, Any]:
        """As JSON."""
        known = {"name": self.name, "kind": self.kind}
        if self.kind == CATEGORY:
            return known | {"categories": list(self.categories)}
        return known | {"mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True)
class Wrong:
    """A cell that is not what was agreed."""

    row: int
    column: str
    text: str


@dataclass(frozen=True)
class Encoded:
    """Rows as a network takes them.

    Attributes:
        values: float32 [n, 1, width, 1].
        missing: In how many rows nothing stands, by column.
        wrong: Cells that are not what was agreed; their values mean nothing.
    """

    values: np.ndarray
    missing: Mapping[str, int]
    wrong: Sequence[Wrong]


@dataclass(frozen=True)
class Columns:
    """What is agreed.

    Attributes:
        target: The column that is predicted.
        columns: The features, in the order in which the network takes them.
    """

    target: str
    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """How many numbers the network gets of a row."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features."""
        return tuple(column.name for column in self.columns)

    def record(self) -> dict[str, Any]:
        """As JSON, for `read_columns_record`."""
        return {"target": self.target, "columns": [column.record() for column in self.columns]}

    def encode(self, features: Mapping[str, Sequence[Cell]], places: Mapping[str, str]) -> Encoded:
        """Rows as the network takes them.

        Args:
            features: Cells by own column.
            places: The own column for each agreed one, see `hold`.
        """
        parts, missing, wrong = [], dict[str, int](), list[Wrong]()
        for column in self.columns:
            own = features[places[column.name]]
            values, nothing, strange = (_category if column.kind == CATEGORY else _scaled)(column, own)
            if nothing:
                missing[column.name] = nothing
            parts.append(values)
            wrong += [Wrong(at, column.name, _told(column, own[at])) for at in strange]
        found = np.concatenate(parts, axis=1).astype(np.float32)
        return Encoded(found[:, np.newaxis, :, np.newaxis], missing, wrong)

    def hold(self, own: Iterable[str], given: Mapping[str, str], where: str, target: bool = True) -> dict[str, str]:
        """The own column for each agreed one.

        An own name stands for the agreed name that it equals, or, where no other could be meant, for the one that
        differs only in upper and lower case. Whatever else is meant, a person says.

        Args:
            given: What `--columns` says: own name by agreed name.
            target: Whether the column that is predicted was found, or needs not be.

        Raises:
            ColumnsError: Some are missing; the hint says what to write.
        """
        own = list(own)
        if strange := sorted(set(given) - {*self.names, self.target, *ROLES, "file"}):
            near = difflib.get_close_matches(strange[0], self.names, 1)
            raise ColumnsError(
                f"--columns: the federation has no column {few(strange)}; its columns are {few(self.names, 40)}",
                f"--columns {near[0] if near else 'AGREED'}=HERE: the federation's name first, then the one here",
            )
        found = {name: one for name in self.names if (one := _own(name, own, self.names, given)) is not None}
        missing = ([] if target else [self.target]) + [name for name in self.names if name not in found]
        if missing:
            left = [name for name in own if name not in found.values()]
            raise ColumnsError(
                f"{where} lacks {_number(missing, 'column')}: {few(missing)}; its columns are {few(own, 40) or 'none'}"
                f", the federation's are {few(self.names, 40)}",
                _proposal(missing, left),
            )
        return found


def hold_target(agreed: str, own: Sequence[str], given: Mapping[str, str]) -> str | None:
    """The own column that is the target, by what `--columns` says or by its name."""
    said = given.get(agreed, given.get("label"))
    return plain(said) if said is not None else _alike(agreed, own)


def read_columns_record(value: object) -> Columns:
    """What `Columns.record` wrote, from a stranger.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("columns"), Sequence):
        raise ValueError("it is no table of columns")
    found = tuple(map(_read_column, value["columns"]))
    names = [column.name for column in found]
    if not found or len(set(names)) < len(names) or sum(column.width for column in found) > MOST_INPUTS:
        raise ValueError("its columns are none, too many, or not all different")
    return Columns(_text(value.get("target")), found)


def _read_column(value: object) -> Column:
    if not isinstance(value, Mapping):
        raise ValueError("a column is no object")
    name, kind = _text(value.get("name")), value.get("kind")
    if kind == CATEGORY and isinstance(value.get("categories"), Sequence):
        categories = tuple(map(_text, value["categories"]))
        if not 0 < len(set(categories)) == len(categories) <= MOST_CATEGORIES:
            raise ValueError(f"the categories of {shown(name)} are none, too many, or not all different")
        return Column(name, kind, categories=categories)
    if kind not in (NUMBER, FLAG):
        raise ValueError(f"the column {shown(name)} is none of number, flag and category")
    mean, deviation = (_figure(name, value.get(which)) for which in ("mean", "deviation"))
    if deviation < 1 / MAX_FIGURE:
        raise ValueError(f"the deviation of {shown(name)} is {deviation:g}, expected at least {1 / MAX_FIGURE:g}")
    return Column(name, kind, mean, deviation)


def _figure(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MAX_FIGURE:
        raise ValueError(f"a figure of the column {shown(name)} is no number")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LETTERS or not value.isprintable():
        raise ValueError(f"a name is not of 1 to {MAX_LETTERS} letters that can be shown")
    return value


def _scaled(column: Column, own: Sequence[Cell]) -> tuple[np.ndarray, int, list[int]]:
    """float64 [n, 1], in how many rows nothing stands, and the places of what is wrong."""
    found = (cells.flags if column.kind == FLAG else cells.numbers)(own)
    values = np.nan_to_num((found.numbers - column.mean) / column.deviation, nan=0.0)
    return values[:, np.newaxis], int(np.isnan(found.numbers).sum()) - len(found.wrong), found.wrong


def _category(column: Column, own: Sequence[Cell]) -> tuple[np.ndarray, int, list[int]]:
    """float64 [n, categories], and the rest as above."""
    values, missing, wrong = np.zeros((len(own), column.width)), 0, []
    place = {category: at for at, category in enumerate(column.categories)}
    for at, text in enumerate(map(text_of, own)):
        if not text:
            missing += 1
        elif (name := _alike(text, column.categories)) is None:
            wrong.append(at)
        else:
            values[at, place[name]] = 1
    return values, missing, wrong


def _told(column: Column, cell: Cell) -> str:
    """What is wrong with a cell."""
    text = f"says {shown(text_of(cell), 40)}"
    if column.kind == CATEGORY:
        return f"{text}, expected one of {few(column.categories, MOST_CATEGORIES)}, or nothing"
    if cells.is_comma(cell):
        return f"{text}, a decimal comma: write a point"
    return f"{text}, expected {'true, false' if column.kind == FLAG else 'a number'} or nothing"


def _own(name: str, own: Sequence[str], agreed: Sequence[str], given: Mapping[str, str]) -> str | None:
    """What an agreed column is called here."""
    if name in given:
        return plain(given[name]) if plain(given[name]) in own else None
    found = _alike(name, own)
    return None if found is None or (found != name and _alike(found, agreed) is None) else found


def _alike(name: str, among: Sequence[str]) -> str | None:
    """The same name, or the only one that differs in upper and lower case."""
    if name in among:
        return name
    folded = name.casefold()
    found = [one for one in among if one.casefold() == folded]
    return found[0] if len(found) == 1 else None


def _proposal(missing: Sequence[str], left: Sequence[str]) -> str:
    pairs, free = {}, list(left)
    for name in missing:
        folded = {one.casefold(): one for one in free}
        near = difflib.get_close_matches(name.casefold(), folded, 1, 0.5)
        pairs[name] = folded[near[0]] if near else "?"
        free = [one for one in free if one != pairs[name]]
    text = ",".join(f"{shown(agreed)}={shown(own)}" for agreed, own in list(pairs.items())[:12])
    return f"if they are called otherwise here, write which is which: --columns '{text}'"


def _number(those: Sequence[str], what: str) -> str:
    return f"{len(those):,} {what}{'s'[: len(those) != 1]}"

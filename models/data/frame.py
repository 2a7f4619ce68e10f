"""A table of features as it lies on disk: columns of cells by name, and which of them say class, split and patient.

    .csv, .tsv    a line of names, then a line per row; between the cells commas, semicolons or tabs, whichever is most
                  frequent in the first line; UTF-8, with or without a byte order mark
    .parquet      numbers, truth values and texts; read where the extra `tables` is installed
    .npz          train_images [n, features], train_labels [n] and so on, as of images, and the texts column_names

    target     the column that is to be predicted: --target NAME, or --columns label=NAME, or one that is called as the
               label of a table of files is, see `table`
    split      --columns split=NAME, or one that is usually called so and says nothing else than train, val and test
    patient    --columns patient=NAME, or one that is usually called so; never a feature

A table that lists image files has a column for them; see `table` for what it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedssh.models.data import arrays, cells, table
from fedssh.models.data.cells import Cell, ColumnsError, few, text_of
from fedssh.models.data.classes import plain, shown
from fedssh.models.data.folders import SPLITS, split_called
from fedssh.models.tasks import CLASSES

TEXTS, PARQUET, ARRAYS = (".csv", ".tsv"), (".parquet", ".pq"), ".npz"
COLUMN_NAMES = "column_names"
MAX_COLUMNS = 10_000
UNEVEN = "lines with another number of columns"
INSTALL = "pip install 'fedssh[tables]' lets Parquet files be read; as .csv nothing is needed"


@dataclass(frozen=True)
class Frame:
    """A table.

    Attributes:
        features: What may be learnt from, by name in the file's order.
        lines: What each row is called, for people.
        target: The name of the column that is to be predicted; None where nobody knows.
        targets: Its cells; empty as above.
        splits: The split of each row.
        patients: Whose each row is; None where no column says so.
        names: The class names that the file itself lists in label order; None where the cells are the names.
        numbered: Whether the file's arrays say the classes as numbers, or what is to be predicted.
        odd: A column that is called as splits are and says something else; it is one of the features.
        wrong: What cannot be used: names by kind.
    """

    features: Mapping[str, Sequence[Cell]]
    lines: Sequence[str]
    target: str | None
    targets: Sequence[Cell]
    splits: Sequence[str]
    patients: Sequence[str | None] | None = None
    names: tuple[str, ...] | None = None
    numbered: bool = False
    odd: str | None = None
    wrong: Mapping[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, places: Sequence[int]) -> Frame:
        """The rows with these places."""
        return replace(
            self,
            features={name: [column[at] for at in places] for name, column in self.features.items()},
            lines=[self.lines[at] for at in places],
            targets=[self.targets[at] for at in places] if self.targets else (),
            splits=[self.splits[at] for at in places],
            patients=None if self.patients is None else [self.patients[at] for at in places],
        )


def is_table(path: Path, columns: Mapping[str, str], known: bool) -> bool:
    """Whether a path is a table of features, and not one that lists image files.

    Args:
        columns: What `--columns` says.
        known: Whether somebody said that it is one.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        return True
    if suffix == ARRAYS:
        return path.is_file() and COLUMN_NAMES in arrays.headers(path)
    if suffix not in TEXTS or known:
        return suffix in TEXTS
    try:
        header = next(table.lines(path), [])
    except (OSError, ValueError):
        return False
    usual = table.COLUMNS["file"]
    return bool(header) and "file" not in columns and not any(plain(name).lower() in usual for name in header)


def read(
    path: Path,
    target: str | None,
    columns: Mapping[str, str],
    taken: Sequence[str] = (),
    task: str | None = None,
) -> Frame:
    """Read a table.

    Args:
        target: What is to be predicted, where somebody said so.
        columns: What `--columns` says.
        taken: Columns that are features whatever they are called.
        task: What an .npz file's labels are; None is what they look like.

    Raises:
        FileNotFoundError: No such file.
        ColumnsError: A column that was named is not there.
        ValueError: It is no table, or cannot be read here.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix.lower() == ARRAYS:
        return _from_arrays(path, task)
    wrong: dict[str, list[str]] = {}
    if path.suffix.lower() in PARQUET:
        named = _parquet(path)
        lines = [f"row {number}" for number in range(1, len(next(iter(named.values()), ())) + 1)]
    else:
        named, lines = _texts(path, wrong)
    return _sorted_out(path, named, lines, target, columns, taken, wrong)


def _sorted_out(
    path: Path, named: Mapping[str, Sequence[Cell]], lines: Sequence[str], target: str | None,
    columns: Mapping[str, str], taken: Sequence[str], wrong: dict[str, list[str]],
) -> Frame:  # fmt: skip
    """Which column is what."""
    free = [name for name in named if name not in taken]
    label = _column(path, named, target or columns.get("label"), "target") or _usual(free, "label")
    split = _column(path, named, columns.get("split"), "split")
    patient = _column(path, named, columns.get("patient"), "patient")
    free = [name for name in free if name not in (label, split, patient)]
    odd = None
    if split is None and (split := _usual(free, "split")):
        said = {text_of(cell).lower() for cell in named[split]}
        if not all(map(split_called, said)):
            odd, split = split, None
    patient = patient or _usual([name for name in free if name != split], "patient")
    splits = ["train"] * len(lines)
    for at, cell in enumerate(named[split] if split else ()):
        found = split_called(text_of(cell))
        if found is None:
            wrong.setdefault(f"rows whose split is none of {', '.join(SPLITS)}", []).append(lines[at])
        splits[at] = found or "train"
    targets = named[label] if label else ()
    for at, cell in enumerate(targets):
        if not text_of(cell):
            wrong.setdefault("rows without a target", []).append(lines[at])
    return Frame(
        {name: column for name, column in named.items() if name not in (label, split, patient)},
        lines, label, targets, splits, [text_of(cell) or None for cell in named[patient]] if patient else None,
        odd=odd, wrong=wrong,
    )  # fmt: skip


def refuse(path: Path, frame: Frame) -> None:
    """Refuse rows that cannot be used, all of them in one message.

    Raises:
        ValueError: There are some.
    """
    if frame.wrong:
        kinds = "; ".join(f"{len(names):,} {kind} ({few(names, 4)})" for kind, names in sorted(frame.wrong.items()))
        raise ValueError(f"{path} has rows that cannot be used: {kinds}; mend them, or take them out")
    if not len(frame):
        raise ValueError(f"{path} has no rows")


def _column(path: Path, named: Mapping[str, object], said: str | None, what: str) -> str | None:
    """The column that somebody named."""
    if said is None or plain(said) in named:
        return None if said is None else plain(said)
    option = "--target" if what == "target" else f"--columns {what}"
    raise ColumnsError(
        f"{path} has no column {shown(said)}; its columns are {few(list(named)) or 'none'}",
        f"{option}=NAME says which column is the {what}",
    )


def called_patient(names: Sequence[str]) -> str | None:
    """The only column that is called as one that tells patients apart usually is."""
    return _usual(names, "patient")


def _usual(names: Sequence[str], what: str) -> str | None:
    """The only column that is called as such ones usually are."""
    found = [name for name in names if name.lower() in table.COLUMNS[what]]
    return found[0] if len(found) == 1 else None


def _texts(path: Path, wrong: dict[str, list[str]]) -> tuple[dict[str, Sequence[Cell]], list[str]]:
    every = table.lines(path)
    header = [plain(name) for name in next(every, [])]
    _check_names(path, header)
    rows, lines = [], []
    for number, line in enumerate(every, 2):
        if not any(map(str.strip, line)):
            continue
        if number > table.MAX_ROWS:
            raise ValueError(f"{path} has more than {table.MAX_ROWS:,} lines")
        if len(line) != len(header):
            wrong.setdefault(UNEVEN, []).append(f"line {number}")
            continue
        rows.append([cell.strip() for cell in line])
        lines.append(f"line {number}")
    columns = zip(*rows, strict=True) if rows else iter([()] * len(header))
    return {name: column for name, column in zip(header, columns, strict=True) if name}, lines


def _check_names(path: Path, names: Sequence[str]) -> None:
    if not any(names):
        raise ValueError(f"{path} has no line with the names of columns")
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{path} has {len(names):,} columns, at most {MAX_COLUMNS:,} are read")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"{path} has two columns called {shown(twice[0])}")
    if all(cells.kind_of([name]) == cells.NUMBER for name in names if name):
        raise ValueError(f"the first line of {path} has only numbers, expected the names of the columns")


def _parquet(path: Path) -> dict[str, Sequence[Cell]]:
    try:
        polars = importlib.import_module("polars")
    except ImportError:
        raise ValueError(f"{path} is a Parquet file: {INSTALL}") from None
    try:
        held = polars.read_parquet(path)
    except Exception as error:  # noqa: BLE001 - whatever it stumbles over in bytes that are no such file
        raise ValueError(f"{path} is no readable Parquet file: {' '.join(str(error).split())[:200]}") from None
    if len(held) > table.MAX_ROWS:
        raise ValueError(f"{path} has more than {table.MAX_ROWS:,} rows")
    _check_names(path, [plain(name) for name in held.columns])
    return {plain(column.name): list(map(_cell, column.to_list())) for column in held.get_columns() if column.name}


def _cell(value: object) -> Cell:
    """What stands in a Parquet file, as one of ours; dates and all else become texts."""
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) or type(value).__name__ == "Decimal":
        return float(value)  # type: ignore[arg-type]
    return str(value).strip()[:1000]


def _from_arrays(path: Path, task: str | None) -> Frame:
    """Numbers with names, as the experiments write them."""
    import numpy as np

    from fedssh.models.data import npz

    columns = [plain(name) for name in arrays.read(path, [COLUMN_NAMES])[COLUMN_NAMES].tolist()]
    _check_names(path, columns)
    kind = task or npz.task(path)
    stored = {split: npz.read_split(path, split, kind) for split in npz.splits(path)}
    values, lines, labels, splits, patients = [], list[str](), list[Cell](), list[str](), list[str | None]()
    for split, one in stored.items():
        flat = np.asarray(one.images, np.float64).reshape(len(one.labels), -1)
        if flat.shape[1] != len(columns):
            raise ValueError(f"{path}: {split} has {flat.shape[1]} numbers a row, {COLUMN_NAMES} has {len(columns)}")
        values.append(flat)
        lines += [f"{split} {at}" for at in range(len(flat))]
        if one.labels.ndim == 2 and one.labels.shape[1] != 1:
            raise ValueError(f"{path}: {split} has {one.labels.shape[1]} targets a row, a table of features has one")
        labels += one.labels.reshape(-1).tolist()
        splits += [split] * len(flat)
        patients += [None] * len(flat) if one.patients is None else list(map(str, one.patients.tolist()))
    every = np.concatenate(values)
    features = {name: every[:, at].tolist() for at, name in enumerate(columns)}
    known = any(one is not None for one in patients)
    names = npz.names(path)
    target = names[0] if kind != CLASSES and names else "label"
    return Frame(features, lines, target, labels, splits, patients if known else None, names, numbered=True)


def own_names(frame: Frame) -> tuple[str, ...] | None:
    """What the classes are called, in label order: numbers by size, texts by the alphabet."""
    if frame.numbered:
        return frame.names
    return tuple(sorted({text_of(cell) for cell in frame.targets}, key=_in_order))


def labels_of(frame: Frame, names: Sequence[str] | None) -> list[int]:
    """The own label of each row."""
    if frame.numbered:
        return [int(cell) for cell in frame.targets if isinstance(cell, (int, float))]
    assert names is not None
    place = {name: at for at, name in enumerate(names)}
    return [place[text_of(cell)] for cell in frame.targets]


def _in_order(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


def digests(frame: Frame, names: Sequence[str]) -> Iterator[bytes]:
    """What tells a row from others: its cells in some columns."""
    import hashlib

    columns = [frame.features[name] for name in names]
    for at in range(len(frame)):
        yield hashlib.sha256("\x1f".join(text_of(column[at]) for column in columns).encode()).digest()

"""A .csv table that lists image files and their labels.

    file,label,split,patient
    scans/1.png,NORMAL,train,p7

    column     is found by one of these names, in any letter case, or by --columns file=NAME,label=NAME,…
    file       file, filename, file_name, path, filepath, image, image_path; relative to the table's folder
    label      label, class, category, target, diagnosis
    split      split, set, subset, fold, partition; without it all is train; its values as the names of folders, see
               `folders`
    patient    patient, patient_id, patientid, subject, subject_id, person

A label may be a number to predict, and several columns may have one each: --columns label=height+weight.

The column `file` and the column `label` must be there. Columns are separated by commas, semicolons or tabs, whichever
is most frequent in the first line; the text is UTF-8. Files outside the table's folder are refused, also where a link
or `..` leads there; so are files that are missing, stand there twice, or are no images.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fedssh.models.data.classes import BETWEEN, plain, shown
from fedssh.models.data.folders import SPLITS, sort_of, split_called

COLUMNS = {
    "file": ("file", "filename", "file_name", "path", "filepath", "image", "image_path"),
    "label": ("label", "class", "category", "target", "diagnosis"),
    "split": ("split", "set", "subset", "fold", "partition"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "person"),
}
NEEDED = ("file", "label")
MAX_ROWS = 1_000_000


class Row(NamedTuple):
    """A file of the table."""

    name: str
    path: Path
    patient: str | None


@dataclass
class Table:
    """What a table lists.

    Attributes:
        files: By split and class, in the table's order.
        names: Of all classes, in alphabetical order.
        has_patients: Whether there is a column of patients.
        wrong: What cannot be used: names by kind.
        ignored: One line on columns that were not looked at, or None.
        called: What the columns of labels are called, where somebody named them; None elsewhere.
    """

    files: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    has_patients: bool = False
    wrong: dict[str, list[str]] = field(default_factory=dict)
    ignored: str | None = None
    called: tuple[str, ...] | None = None


def read_columns(text: str | None) -> dict[str, str]:
    """What `--columns` says: `file=NAME,label=NAME,…`; of a table of features also `AGREED=NAME`.

    Raises:
        ValueError: It is none such.
    """
    pairs = [part.split("=", 1) for part in (text or "").split(",") if part.strip()]
    for pair in pairs:
        if len(pair) != 2 or not pair[0].strip() or not pair[1].strip():
            raise ValueError(_none_of("=".join(pair)))
    return {plain(name): column.strip() for name, column in pairs}


def _none_of(text: str) -> str:
    return f"--columns: {shown(text)} is none of {', '.join(f'{name}=NAME' for name in COLUMNS)}"


def read(path: Path, columns: Mapping[str, str]) -> Table:
    """Read a table; of the files themselves only the first bytes are looked at.

    Args:
        columns: What columns are called that have none of the usual names.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no table, or lacks a column; the message names the columns that there are.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if strange := [name for name in columns if name not in COLUMNS]:
        raise ValueError(_none_of(f"{strange[0]}={columns[strange[0]]}"))
    found, root, seen = Table(), path.parent.resolve(), set[Path]()
    every = lines(path)
    header = next(every, [])
    places, several = _places(path, header, columns)
    found.has_patients = "patient" in places
    if "label" in columns:
        found.called = tuple(plain(header[place]) for place in several)
    for number, line in enumerate(every, 2):
        if not any(map(str.strip, line)):
            continue
        if number > MAX_ROWS:
            raise ValueError(f"{path} has more than {MAX_ROWS:,} lines")
        if len(line) != len(header):
            found.wrong.setdefault("lines with another number of columns", []).append(f"line {number}")
            continue
        cells = {name: line[place].strip() for name, place in places.items()}
        if len(several) > 1:
            each = [line[place].strip() for place in several]
            cells["label"] = BETWEEN.join(each) if all(each) else ""
        _add(found, root, seen, cells, number)
    found.names = tuple(sorted({name for kinds in found.files.values() for name in kinds}))
    if not found.files and not found.wrong:
        raise ValueError(f"{path} lists no files")
    others = [shown(name) for place, name in enumerate(header) if place not in (*places.values(), *several)]
    found.ignored = f"columns not looked at: {', '.join(others[:12])}" if others else None
    return found


def _add(found: Table, root: Path, seen: set[Path], cells: Mapping[str, str], number: int) -> None:
    """Take over one line, or what is wrong with it."""
    split = split_called(cells["split"]) if "split" in cells else "train"
    kind, file = _looked_at(root, cells["file"])
    if not kind and file in seen:
        kind = "files listed twice"
    if not kind and not cells["label"]:
        kind = "files without a label"
    if not kind and split is None:
        kind = f"files whose split is none of {', '.join(SPLITS)}"
    if kind or split is None:
        found.wrong.setdefault(kind or "", []).append(f"{shown(cells['file'])} in line {number}")
        return
    seen.add(file)
    row = Row(cells["file"], file, cells.get("patient") or None)
    found.files.setdefault(split, {}).setdefault(plain(cells["label"]), []).append(row)


def _looked_at(root: Path, name: str) -> tuple[str | None, Path]:
    """Why a file cannot be used, or None; and where it really is."""
    try:
        file = (root / name).resolve()
        if not name or not file.is_relative_to(root):
            return "files outside the table's folder", file
        if not file.exists():
            return "missing files", file
    except (OSError, ValueError):  # such as a name with a zero byte, or a link in a circle
        return "missing files", root
    picture, kind = sort_of(file)
    return kind or (None if picture else f"*{shown(file.suffix.lower())} files"), file


def lines(path: Path) -> Iterator[list[str]]:
    """The cells of each line of a .csv file.

    Raises:
        ValueError: It is none, or no UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            yield from csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable table: {error}") from None


def _places(path: Path, header: Sequence[str], columns: Mapping[str, str]) -> tuple[dict[str, int], list[int]]:
    """Which column is which, and all of those with labels."""
    called = [plain(name) for name in header]
    there = f"its columns are {', '.join(map(shown, called)) or 'none'}"
    places, several = {}, list[int]()
    for name, usual in COLUMNS.items():
        if name == "label" and plain(columns.get(name, "")) not in called and "+" in columns.get(name, ""):
            wanted = [plain(one) for one in columns[name].split("+")]
            if missing := [one for one in wanted if called.count(one) != 1]:
                raise ValueError(f"{path} has not one column {shown(missing[0])} for label; {there}")
            several = [called.index(one) for one in wanted]
            fitting = several[:1]
        elif name in columns:
            fitting = [place for place, one in enumerate(called) if one == plain(columns[name])]
        else:
            fitting = [place for place, one in enumerate(called) if one.lower() in usual]
        if len(fitting) > 1 or (not fitting and (name in NEEDED or name in columns)):
            problem = "several columns" if fitting else "no column"
            asked = shown(columns[name]) if name in columns else " or ".join(usual)
            raise ValueError(f"{path} has {problem} for {name} ({asked}); {there}: --columns {name}=NAME says which")
        if fitting:
            places[name] = fitting[0]
    return places, several or [places["label"]]

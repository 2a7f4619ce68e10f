"""Images in files of their own: a folder, a .tar archive or a table of them, by split and class."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from fedssh.models.data import archive, classes, folders, holdout, labels, table
from fedssh.models.data.archive import Picture
from fedssh.models.data.holdout import Row
from fedssh.models.data.pixel_file import Pieces, digest, stamp
from fedssh.models.data.pixels import Changes, PictureError, Size, White, fit, measure_image, most_pixels, read_image
from fedssh.models.data.reading import AS_IT_IS, Description, Reading
from fedssh.models.tasks import CLASSES, REGRESSION, SEVERAL

ARCHIVE, TABLE = ".tar", ".csv"
_Opener = Callable[[Any], tuple[str, Path | BinaryIO]]


@dataclass(frozen=True)
class Pictures:
    """Files by split and class, and how to open one and what to call it.

    Attributes:
        files: By split and class.
        names: Of all classes, in label order.
        ignored: One line on what was passed over, or None.
        opened: A file's name for a message, and what to read it from.
        named: Its name or path below the data set.
        patient: Who it is of, where the data set says so itself.
        wrong: What cannot be used: names by kind.
        called: What the columns of labels are called, where each has its own; None elsewhere.
        unlabelled: Files of images whose class nobody knows.
    """

    files: Mapping[str, Mapping[str, Sequence[Any]]]
    names: tuple[str, ...]
    ignored: str | None
    opened: _Opener
    named: Callable[[Any], str]
    patient: Callable[[Any], str | None] | None = None
    wrong: Mapping[str, Sequence[str]] = field(default_factory=dict)
    called: tuple[str, ...] | None = None
    unlabelled: Sequence[Any] = ()


class Listed(NamedTuple):
    """One picture: its place in the data set, its own label, and the file."""

    row: Row
    label: int
    file: Any


def has_pictures(path: Path) -> bool:
    """Whether a path is to be read as pictures in files of their own; only its kind is looked at."""
    return path.is_dir() or path.suffix.lower() in (ARCHIVE, TABLE)


def find(path: Path, reading: Reading = AS_IT_IS) -> Pictures:
    """Which files belong to which split and class.

    Raises:
        ValueError: There are none, or others beside them; the message says all of it.
    """
    there = explore(path, reading)
    folders.refuse(path, there.wrong)
    if not there.files:
        folders.survey(path)  # an empty one: it says what is expected
    return there


def explore(path: Path, reading: Reading = AS_IT_IS) -> Pictures:
    """As `find`, also where some files cannot be used."""
    if path.is_dir():
        layout = folders.explore(path)
        named: Callable[[Any], str] = lambda file: file.relative_to(path).as_posix()  # noqa: E731 - one of three
        opened: _Opener = lambda file: (str(file.relative_to(path)), file)  # noqa: E731
        return Pictures(
            layout.files, layout.names, layout.ignored, opened, named, wrong=layout.wrong, unlabelled=layout.unlabelled
        )
    if path.suffix.lower() == TABLE:
        found = table.read(path, reading.columns)
        return Pictures(
            found.files, found.names, found.ignored, lambda one: (one.name, one.path), lambda one: one.name,
            (lambda one: one.patient) if found.has_patients else None, found.wrong, found.called,
        )  # fmt: skip
    members, passed = archive.listed(path)
    by_class: dict[str, dict[str, list[Picture]]] = {}
    unlabelled = []
    for one in members:
        if folders.is_unlabelled((one.split, one.category, one.name)):
            unlabelled.append(one)
            continue
        by_class.setdefault(one.split, {}).setdefault(classes.plain(one.category), []).append(one)
    names = tuple(sorted({name for kinds in by_class.values() for name in kinds}))
    ignored = folders.told(passed)
    return Pictures(
        by_class, names, ignored, from_archive(path), lambda one: f"{one.split}/{one.category}/{one.name}",
        unlabelled=unlabelled,
    )  # fmt: skip


def from_archive(path: Path) -> _Opener:
    """Opens the pictures of an archive: the name for a message, and the bytes of the file, in memory."""
    return lambda one: (archive.shown(one), io.BytesIO(archive.read(path, one)))


def listed(path: Path, there: Pictures, reading: Reading) -> dict[str, list[Listed]]:
    """The pictures of each split, by class and name, after the holdout was cut where one is to be.

    Raises:
        ValueError: Patients are said twice, or `reading` does not suit these pictures.
    """
    if there.patient and reading.patient is not None:
        raise ValueError(f"{path} has a column of patients; leave out --patient")
    every = [
        (split, name, label, one)
        for split in folders.SPLITS
        for label, name in enumerate(there.names)
        for one in there.files.get(split, {}).get(name, ())
    ]
    called = [there.named(one) for *_, one in every]
    own = [there.patient(one) for *_, one in every] if there.patient else reading.patients(called, str(path))
    found: dict[str, list[Listed]] = {}
    for (split, name, label, one), known, patient in zip(every, called, own, strict=True):
        category = name if reading.task not in SEVERAL else ""  # rows are no classes
        found.setdefault(split, []).append(Listed(Row(split, category, known, patient), label, one))
    if reading.cut is None:
        return found
    pool = [one for split in holdout.POOL for one in found.get(split, ())]
    sides = holdout.divide([one.row for one in pool], reading.cut, str(path))
    return found | {split: [pool[place] for place in side] for split, side in zip(holdout.POOL, sides, strict=True)}


def load(
    path: Path, wanted: Size, number: int, split: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images, labels and patients of one split, see `images.load`."""
    there = find(path, reading)
    every = listed(path, there, reading).get(split)
    if not every:
        raise ValueError(f"{path} has no {split} split")
    if there.ignored:
        reading.tell(there.ignored)
    if reading.task in SEVERAL:
        images = _as_wanted(path, split, there, [one.file for one in every], wanted, reading)
        return images, _targets(path, there, every, number, reading), _owners([one.row for one in every])
    counts = Counter(one.label for one in every)
    numbers = reading.numbers(there.names, number, split, [counts[label] for label in range(len(there.names))])
    if not reading.held and len(there.names) != number:
        found = ", ".join(map(classes.shown, there.names))
        raise ValueError(f"{path} has {len(there.names)} folders of images ({found}), expected one per class, {number}")
    kept = [(one, label) for one in every if (label := numbers[one.label]) is not None]
    if not kept:
        raise ValueError(f"{path} has no images of the federation's classes in {split}")
    images = _as_wanted(path, split, there, [one.file for one, _ in kept], wanted, reading)
    return images, np.array([label for _, label in kept], dtype=np.int64), _owners([one.row for one, _ in kept])


def unlabelled(path: Path, wanted: Size, reading: Reading) -> np.ndarray | None:
    """The images whose class nobody knows, as the network takes them; None where there are none.

    Raises:
        ValueError: Some cannot be read, or they take more memory than they may.
    """
    there = find(path, reading)
    if not there.unlabelled:
        return None
    if reading.store is not None:
        reading.store.hold(path, len(there.unlabelled), wanted)
    return unpack(path, there.unlabelled, there.opened, wanted, reading)


def targets(path: Path, number: int, split: str, reading: Reading) -> np.ndarray:
    """The numbers to predict of one split, in the federation's order: float32 [n, targets]."""
    there = find(path, reading)
    return _targets(path, there, listed(path, there, reading).get(split, ()), number, reading)


def _targets(path: Path, there: Pictures, every: Sequence[Listed], number: int, reading: Reading) -> np.ndarray:
    task = reading.task or REGRESSION
    found = labels.numbers([there.names[one.label] for one in every], str(path), task)
    order = labels.in_order(there.called, number, reading.names, reading.given, found.shape[1], str(path), task)
    return found[:, order]


def task(path: Path, reading: Reading) -> str:
    """What the labels look like, see `labels`: names of folders are classes, whatever they are."""
    return task_of(path, find(path, reading))


def task_of(path: Path, there: Pictures) -> str:
    """The same of files that were found."""
    if path.suffix.lower() != TABLE:
        return CLASSES
    return labels.task_of_texts(there.names)


def _owners(rows: Sequence[Row]) -> np.ndarray | None:
    """Who each image is of; an image whose patient nobody knows is one of its own. None where none is known."""
    if all(row.patient is None for row in rows):
        return None
    return np.array([f"patient {row.patient}" if row.patient is not None else f"file {row.name}" for row in rows])


def unpack(path: Path, chosen: Sequence[Any], opened: _Opener, wanted: Size, reading: Reading = AS_IT_IS) -> np.ndarray:
    """Read pictures; all that cannot be read are named in one message."""
    images = np.empty((len(chosen), *wanted), dtype=np.float32)
    white = reading.new_white()
    for index, (where, pixels) in enumerate(_decoded(path, chosen, opened, wanted, white, reading.tell)):
        images[index] = fit(white.scale(pixels[0], where), wanted, where)
    return images


def _as_wanted(
    path: Path, split: str, there: Pictures, files: Sequence[Any], wanted: Size, reading: Reading
) -> np.ndarray:
    """Pictures as the network takes them, in memory or in a file of the store."""
    if reading.store is not None and reading.store.takes(len(files), wanted):
        return _stored(path, split, [(there.named(one), one) for one in files], there.opened, wanted, reading)
    return unpack(path, files, there.opened, wanted, reading)


def _stored(
    path: Path, split: str, named: Sequence[tuple[str, Any]], opened: _Opener, wanted: Size, reading: Reading
) -> np.ndarray:
    """The same in a file of the store."""
    assert reading.store is not None
    white, chosen = reading.new_white(), [one for _, one in named]
    made_from = [str(path.resolve()), digest([[name, *_stamp(path, one)] for name, one in named])]

    def pieces(tell: Callable[[str], None]) -> Pieces:
        return _decoded(path, chosen, opened, wanted, white, tell)

    return cast(np.ndarray, reading.store.kept(split, made_from, len(chosen), wanted, white, pieces, reading.tell))


def _stamp(path: Path, one: Any) -> list[Any]:
    """By which a picture's file is known again."""
    if isinstance(one, Picture):
        return [one.offset, one.size, *stamp(path)]
    return stamp(one.path if isinstance(one, table.Row) else one)


def _decoded(
    path: Path, chosen: Sequence[Any], opened: _Opener, wanted: Size, white: White, tell: Callable[[str], None]
) -> Pieces:
    """Pictures one after another as they are stored: [1, height, width, channels].

    All are read, also after one that cannot be.

    Raises:
        ValueError: Some cannot be read, or nobody can tell what white is; the message names them.
    """
    changes = Changes()
    wrong: list[str] = []
    for one in chosen:
        name, file = opened(one)
        try:
            pixels = read_image(file, most_pixels(wanted))
        except PictureError as error:
            wrong.append(f"{name}: {error}")
            continue
        changes.found[pixels.shape] += 1
        if not wrong:
            yield f"{path}: {name}", pixels[np.newaxis]
    folders.refuse(path, {"no readable images": wrong} if wrong else {})
    white.check(str(path))
    if line := changes.told(wanted):
        tell(line)


def describe(path: Path, reading: Reading = AS_IT_IS) -> Description:
    """What the files say of themselves by their names and first bytes."""
    there = find(path, reading)
    sizes: Counter[Size] = Counter()
    wrong: list[str] = []
    for one in (one for kinds in there.files.values() for files in kinds.values() for one in files):
        name, file = there.opened(one)
        try:
            sizes[measure_image(file)] += 1
        except PictureError as error:
            wrong.append(f"{name}: {error}")
    folders.refuse(path, {"no readable images": wrong} if wrong else {})
    if (kind := reading.task or task_of(path, there)) in SEVERAL:
        width = labels.numbers(there.names, str(path), kind).shape[1]
        return Description(sizes, width, there.called, there.ignored, task=kind)
    return Description(sizes, len(there.names), there.names, there.ignored)

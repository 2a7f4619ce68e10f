"""What is in a data set: every image of it, and all that cannot be used, without stopping at the first.

`look` counts by names and first bytes; `look_through` also unpacks every image, one after another, so that memory does
not grow with the set (an .npz file is read as a whole). Two images are the same when their decoded pixels are: type,
shape and every value, whatever their files are called and however they are packed. Nothing that lies in a data set
raises an error here: it is an answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from fedssh.models.data import column_report, features, labels, npz, pictures
from fedssh.models.data.classes import NamesError
from fedssh.models.data.column_report import ColumnFound
from fedssh.models.data.folders import SPLITS
from fedssh.models.data.holdout import Row
from fedssh.models.data.pixels import PictureError, Size, White, measure_image, read_image
from fedssh.models.data.reading import AS_IT_IS, Reading
from fedssh.models.tasks import CLASSES, SEVERAL

UNREADABLE = "no readable images"


class One(NamedTuple):
    """An image: where it belongs, its name for people, and how to look at it."""

    row: Row
    shown: str
    measured: Callable[[], Size]
    pixels: Callable[[], np.ndarray]


@dataclass
class Contents:
    """What a data set holds.

    Attributes:
        names: Its classes' names, in label order; None where it has none.
        counts: Readable images by split and class; a class of a number is called by it.
        sizes: How many images of which height, width and channels.
        modes: How many images of which kind, such as 8-bit grey; only where images were unpacked.
        wrong: What cannot be used: names by kind.
        ignored: One line on what was passed over, or None.
        alike: Names of images that are the same, with their splits and classes; only where images were unpacked.
        patients: Who has images in which split; empty where nobody is known.
        task: What its labels are, see `labels`.
        targets: Numbers to predict, by split: float64 [n, targets] of its images, in the set's own order.
        told: Lines that were told while looking.
        failure: Why no more could be found out, or None; and what would do, as far as that is known.
        unpacked: Whether images were unpacked.
        unit: What the examples are called.
        columns: Of a table, what each feature says.
        unlabelled: How many images have no label: they are in no other count.
    """

    names: tuple[str, ...] | None = None
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sizes: Counter[Size] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    ignored: str | None = None
    alike: list[list[tuple[str, str, str]]] = field(default_factory=list)
    patients: dict[str, set[str]] = field(default_factory=dict)
    task: str = CLASSES
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    failure: str | None = None
    hint: str | None = None
    unpacked: bool = False
    unit: str = "images"
    columns: list[ColumnFound] = field(default_factory=list)
    unlabelled: int = 0

    @property
    def total(self) -> int:
        """How many readable images there are."""
        return sum(counts.total() for counts in self.counts.values())


def look(path: Path, reading: Reading = AS_IT_IS) -> Contents:
    """Count what is there; of images only the first bytes are read."""
    return _looked(path, reading, False, lambda done, total: None)


def look_through(
    path: Path, reading: Reading = AS_IT_IS, progress: Callable[[int, int], None] = lambda done, total: None
) -> Contents:
    """Unpack every image.

    Args:
        progress: Called after each image with how many are done, and of how many.
    """
    return _looked(path, reading, True, progress)


def _looked(path: Path, reading: Reading, unpack: bool, progress: Callable[[int, int], None]) -> Contents:
    found = Contents(unpacked=unpack)
    telling = dataclasses.replace(reading, tell=found.told.append)
    try:
        if features.is_table(path, reading):
            _table(path, telling, found)
            return found
        every = list(_arrays(path, telling, found) if not pictures.has_pictures(path) else _files(path, telling, found))
    except (OSError, ValueError) as error:
        found.failure = " ".join(str(error).split())
        return found
    same: dict[bytes, list[One]] = {}
    white = reading.new_white()
    for done, one in enumerate(every, 1):
        _look_at(one, found, same, white if unpack else None)
        progress(done, len(every))
    found.alike = [
        [(one.row.split, one.row.category, one.shown) for one in group] for group in same.values() if group[1:]
    ]
    try:
        white.check(str(path))
    except ValueError as error:
        found.failure = str(error)
    return found


def _table(path: Path, reading: Reading, found: Contents) -> None:
    """Look through a table of features, which is read as a whole."""
    found.unit = "rows"
    try:
        rows, found.columns, width = column_report.look(path, reading, found.wrong)
    except (OSError, ValueError) as error:
        found.failure = " ".join(str(error).split())
        found.hint = error.hint if isinstance(error, NamesError) else None
        return
    found.unpacked = True
    found.names, found.task = rows.names, rows.task
    if rows.targets is not None:
        for split in {row.split for row in rows.rows}:
            found.targets[split] = rows.targets[[row.split == split for row in rows.rows]]
    found.sizes[1, width, 1] = len(rows.rows)
    same: dict[bytes, list[tuple[str, str, str]]] = {}
    for row, line, digest in zip(rows.rows, rows.lines, rows.digests, strict=True):
        found.counts.setdefault(row.split, Counter())[row.category] += 1
        same.setdefault(digest, []).append((row.split, row.category, line))
        if row.patient is not None:
            found.patients.setdefault(row.patient, set()).add(row.split)
    found.alike = [group for group in same.values() if group[1:]]


def _look_at(one: One, found: Contents, same: dict[bytes, list[One]], white: White | None) -> None:
    try:
        if white is None:
            found.sizes[one.measured()] += 1
        else:
            pixels = one.pixels()
            found.sizes[_size(pixels)] += 1
            found.modes[_mode(pixels)] += 1
            same.setdefault(_digest(pixels), []).append(one)
            white.scale(pixels, "it")
    except PictureError as error:
        found.wrong.setdefault(UNREADABLE, []).append(f"{one.shown}: {error}")
        return
    except OSError as error:
        found.wrong.setdefault(UNREADABLE, []).append(f"{one.shown}: {error.strerror or error}")
        return
    except ValueError as error:  # of a type or a brightness that is no image's
        found.wrong.setdefault("images whose pixels are out of range", []).append(f"{one.shown}: {error}")
    found.counts.setdefault(one.row.split, Counter())[one.row.category] += 1
    if one.row.patient is not None:
        found.patients.setdefault(one.row.patient, set()).add(one.row.split)


def _files(path: Path, reading: Reading, found: Contents) -> Iterator[One]:
    there = pictures.explore(path, reading)
    found.names, found.ignored = there.names, there.ignored
    found.wrong = {kind: list(names) for kind, names in there.wrong.items()}
    found.task = reading.task or pictures.task_of(path, there)
    listed = pictures.listed(path, there, dataclasses.replace(reading, task=found.task))
    if found.task in SEVERAL:
        found.names = there.called
        for split, those in listed.items():
            found.targets[split] = labels.numbers([there.names[one.label] for one in those], str(path), found.task)
    found.unlabelled = len(there.unlabelled)
    for file in there.unlabelled if found.unpacked else ():
        try:
            read_image(there.opened(file)[1])
        except (PictureError, OSError) as error:
            found.wrong.setdefault(UNREADABLE, []).append(f"{there.named(file)}: {error}")
            found.unlabelled -= 1
    for split in SPLITS:
        for one in listed.get(split, ()):
            yield One(one.row._replace(split=split), there.named(one.file), *_opened(there, one))


def _opened(there: pictures.Pictures, one: pictures.Listed) -> tuple[Callable[[], Size], Callable[[], np.ndarray]]:
    """How to look at a picture, which is opened only then."""

    def file() -> Path | BinaryIO:
        try:
            return there.opened(one.file)[1]
        except ValueError as error:
            raise PictureError(str(error)) from None

    return lambda: measure_image(file()), lambda: read_image(file())


def _arrays(path: Path, reading: Reading, found: Contents) -> Iterator[One]:
    described = npz.describe(path, reading.task)
    found.names, found.task = described.names, described.task
    reading = dataclasses.replace(reading, task=found.task)
    stored, rows = npz.stored(path, len(described.names) if described.names else npz.MAX_LABEL, reading)
    found.unlabelled = npz.count_unlabelled(path, found.task)
    if found.task in SEVERAL:
        found.targets = {split: stored[split].labels for split in stored}
    for split in SPLITS:
        for at, row in enumerate(rows.get(split, ())):
            category = found.names[int(row.category)] if found.names and row.category else row.category
            here = row._replace(split=split, category=category)
            image = stored[split].images[at]
            yield One(here, f"{row.split} {row.name}", partial(_size, image), partial(_deep, image))


def _deep(image: np.ndarray) -> np.ndarray:
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise PictureError(f"its shape is {image.shape}, expected [height, width] or [height, width, 1|3|4]")
    return image if image.ndim == 3 else image[..., np.newaxis]


def _size(pixels: np.ndarray) -> Size:
    height, width, channels = (*pixels.shape, 1)[:3]
    return height, width, channels if channels not in (2, 4) else channels - 1


def _mode(pixels: np.ndarray) -> str:
    kind = {1: "grey", 2: "grey", 3: "coloured", 4: "coloured"}.get(pixels.shape[2], f"{pixels.shape[2]}-channel")
    return f"{pixels.dtype.itemsize * 8}-bit {'' if pixels.dtype.kind in 'ub' else 'floating-point '}{kind}"


def _digest(pixels: np.ndarray) -> bytes:
    digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.digest()

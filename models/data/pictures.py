"""Images in files of their own: a folder or a .tar archive of them, by split and class."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedssh.models.data import archive, classes, folders
from fedssh.models.data.archive import Picture
from fedssh.models.data.pixels import Changes, PictureError, Size, fit, measure_image, most_pixels, read_image
from fedssh.models.data.reading import AS_IT_IS, Description, Reading

ARCHIVE = ".tar"
_Opener = Callable[[Any], tuple[str, Path | BinaryIO]]


@dataclass(frozen=True)
class Pictures:
    """Files by split and class, and how to open one and what to call it."""

    files: Mapping[str, Mapping[str, Sequence[Any]]]
    names: tuple[str, ...]
    ignored: str | None
    opened: _Opener


def has_pictures(path: Path) -> bool:
    """Whether a path is to be read as pictures in files of their own; only its kind is looked at."""
    return path.is_dir() or path.suffix == ARCHIVE


def find(path: Path) -> Pictures:
    """Which files belong to which split and class."""
    if path.is_dir():
        layout = folders.survey(path)
        return Pictures(layout.files, layout.names, layout.ignored, lambda file: (str(file.relative_to(path)), file))
    found: dict[str, dict[str, list[Picture]]] = {}
    for one in archive.pictures(path):
        found.setdefault(one.split, {}).setdefault(classes.plain(one.category), []).append(one)
    names = tuple(sorted({name for kinds in found.values() for name in kinds}))
    return Pictures(found, names, None, from_archive(path))


def from_archive(path: Path) -> _Opener:
    """Opens the pictures of an archive: the name for a message, and the bytes of the file, in memory."""
    return lambda one: (archive.shown(one), io.BytesIO(archive.read(path, one)))


def load(path: Path, wanted: Size, number: int, split: str, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, see `images.load`."""
    there = find(path)
    if split not in there.files:
        raise ValueError(f"{path} has no {split} split")
    kinds = there.files[split]
    if there.ignored:
        reading.tell(there.ignored)
    numbers = reading.numbers(there.names, number, split, [len(kinds.get(name, ())) for name in there.names])
    if not reading.held and len(there.names) != number:
        found = ", ".join(map(classes.shown, there.names))
        raise ValueError(f"{path} has {len(there.names)} folders of images ({found}), expected one per class, {number}")
    chosen = [(one, label) for name, label in zip(there.names, numbers, strict=True) for one in kinds.get(name, ())]
    kept = [(one, label) for one, label in chosen if label is not None]
    if not kept:
        raise ValueError(f"{path} has no images of the federation's classes in {split}")
    images = unpack(path, [one for one, _ in kept], there.opened, wanted, reading)
    return images, np.array([label for _, label in kept], dtype=np.int64)


def unpack(path: Path, chosen: Sequence[Any], opened: _Opener, wanted: Size, reading: Reading = AS_IT_IS) -> np.ndarray:
    """Read pictures; all that cannot be read are named in one message."""
    images = np.empty((len(chosen), *wanted), dtype=np.float32)
    white, changes = reading.new_white(), Changes()
    wrong: list[str] = []
    for index, one in enumerate(chosen):
        name, file = opened(one)
        try:
            pixels = read_image(file, most_pixels(wanted))
        except PictureError as error:
            wrong.append(f"{name}: {error}")
            continue
        changes.found[pixels.shape] += 1
        if not wrong:
            where = f"{path}: {name}"
            images[index] = fit(white.scale(pixels, where), wanted, where)
    folders.refuse(path, {"no readable images": wrong} if wrong else {})
    white.check(str(path))
    if line := changes.told(wanted):
        reading.tell(line)
    return images


def describe(path: Path) -> Description:
    """What the files say of themselves by their names and first bytes."""
    there = find(path)
    sizes: Counter[Size] = Counter()
    wrong: list[str] = []
    for one in (one for kinds in there.files.values() for files in kinds.values() for one in files):
        name, file = there.opened(one)
        try:
            sizes[measure_image(file)] += 1
        except PictureError as error:
            wrong.append(f"{name}: {error}")
    folders.refuse(path, {"no readable images": wrong} if wrong else {})
    return Description(sizes, len(there.names), there.names, there.ignored)

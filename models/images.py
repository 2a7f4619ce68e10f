"""Local data: what an image set is, and loading one.

A data set is one of

    an .npz file      train_images, train_labels, val_images, … (MedMNIST), or x_train, y_train, x_test, … (Keras);
                      images [n, height, width] or [n, height, width, 1|3|4], labels [n] or [n, 1];
                      train_patients, val_patients, … [n], if known
    a folder          CLASS/*.png, or SPLIT/CLASS/*.png with the splits train and test, or train, val and test;
                      classes are numbered in alphabetical order; a folder without splits is all train
    a .tar archive    [FOLDER/]SPLIT/CLASS/*.png, uncompressed; read in memory, never extracted

Images of any size and mode are converted to the size and the number of channels that the network takes, see `pixels`.
"""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import archive
from .archive import Picture
from .pixels import convert, fit, read_image

SPLITS = ("train", "val", "test")
ARCHIVE = ".tar"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
MAX_LABEL = 10_000


@dataclass(frozen=True)
class Images:
    """Labelled images of one split.

    Attributes:
        images: float32 [n, height, width, channels], in 0..1.
        labels: int64 [n], in 0..classes-1.
        patients: [n], equal for images of one patient; None when the data does not say.
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Images:
        """The examples with these indices."""
        patients = None if self.patients is None else self.patients[indices]
        return Images(self.images[indices], self.labels[indices], patients)


def splits(path: Path) -> tuple[str, ...]:
    """Which of train, val and test a data set has.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set.
    """
    if path.is_dir():
        return _folder_splits(path)
    if path.suffix == ARCHIVE:
        found = {picture.split for picture in pictures(path)}
        return tuple(split for split in SPLITS if split in found)
    with _opened(path) as arrays:
        return tuple(split for split in SPLITS if _keys(arrays, split))


def load(path: Path, spec_input: tuple[int, int, int] | list[int], classes: int, split: str) -> Images:
    """Load one split of a data set, as the network takes it.

    Args:
        path: An .npz file, a folder or a .tar archive.
        spec_input: Height, width and channels that the images shall have.
        classes: How many classes the network tells apart.
        split: train, val or test.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: Unreadable, wrong shapes, labels outside 0..classes-1, an empty class, or no such split.
    """
    height, width, channels = spec_input
    if path.is_dir():
        return _load_folder(path, (height, width, channels), classes, split)
    if path.suffix == ARCHIVE:
        return _load_archive(path, (height, width, channels), classes, split)
    with _opened(path) as arrays:
        keys = _keys(arrays, split)
        if not keys:
            raise ValueError(f"{path} has no {split} split; it holds {', '.join(arrays.files) or 'nothing'}")
        images, labels, patients = (_read(path, arrays, key) if key else None for key in keys)
    assert images is not None and labels is not None
    labels = _check_labels(labels, classes, f"{path}: {keys[1]}")
    for key, array in zip((keys[0], keys[2]), (images, patients), strict=True):
        if array is not None and (array.ndim == 0 or len(array) != len(labels)):
            raise ValueError(f"{path}: {key} has shape {array.shape}, but there are {len(labels)} labels")
    return Images(convert(images, (height, width, channels), f"{path}: {keys[0]}"), labels, patients)


def hold_out(
    labels: np.ndarray, share: float, seed: int, patients: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples in two: whole patients where patients are known, else keeping the shares of the classes.

    Args:
        labels: int [n].
        share: Of the second part, in 0..1.
        seed: The same seed gives the same parts.
        patients: [n], equal for images of one patient.

    Returns:
        The indices of the larger and of the held-out part, each ascending and never empty.

    Raises:
        ValueError: There is only one example, or only one patient.
    """
    owner = np.arange(len(labels)) if patients is None else np.unique(patients, return_inverse=True)[1]
    owners = int(owner.max(initial=-1)) + 1
    if owners < 2:
        raise ValueError(f"{len(labels)} examples of {owners} patients cannot be divided in two")
    random = np.random.default_rng(seed)
    order = random.permutation(owners)
    if patients is None:  # every so manieth of the examples in order of their class
        by_class = order[np.argsort(labels[order], kind="stable")]
        number = min(max(round(share * owners), 1), owners - 1)
        chosen = by_class[(2 * np.arange(number) + 1) * owners // (2 * number)]
    else:
        reached = np.cumsum(np.bincount(owner)[order])
        chosen = order[: min(max(int(np.searchsorted(reached, share * len(labels), "right")), 1), owners - 1)]
    held = np.isin(owner, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


def describe(path: Path) -> tuple[tuple[int, int, int], int]:
    """The size of a data set's images as height, width and channels, and how many classes it has.

    In a folder or an archive the first image's size stands for all.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set, or has fewer than two classes.
    """
    if path.is_dir():
        folder = path / _folder_splits(path)[0]
        names = _folders(folder if folder.is_dir() else path)
        first = next((file for name in names for file in image_files(name)), None)
        if first is None:
            raise ValueError(f"{path} has no images")
        height, width, channels = read_image(first).shape
        classes = len(names)
    elif path.suffix == ARCHIVE:
        found = pictures(path)
        height, width, channels = _decode(path, found[0]).shape
        classes = len({picture.category for picture in found})
    else:
        with _opened(path) as arrays:
            keys = [key for split in SPLITS if (key := _keys(arrays, split))]
            if not keys:
                raise ValueError(f"{path} has no images and labels; it holds {', '.join(arrays.files) or 'nothing'}")
            shape = _read(path, arrays, keys[0][0]).shape
            if len(shape) not in (3, 4):
                raise ValueError(f"{path}: {keys[0][0]} has shape {shape}, expected [n, height, width, channels]")
            labels = [_check_labels(_read(path, arrays, key[1]), MAX_LABEL, f"{path}: {key[1]}") for key in keys]
            classes = int(max(array.max() for array in labels)) + 1
        height, width, channels = (*shape[1:], 1)[:3]
        channels = 1 if channels < 3 else 3
    if classes < 2:
        raise ValueError(f"{path} has {classes} class, expected at least 2")
    return (height, width, channels), classes


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        arrays = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"{path} is no readable .npz file or folder of images") from None
    if not hasattr(arrays, "files"):
        raise ValueError(f"{path} is a single array, expected an .npz file with images and labels")
    with arrays:
        yield arrays


def _keys(arrays: Any, split: str) -> tuple[str, str, str | None] | None:
    patients = f"{split}_patients" if f"{split}_patients" in arrays.files else None
    for images, labels in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
        if images in arrays.files and labels in arrays.files:
            return images, labels, patients
    return None


def _read(path: Path, arrays: Any, key: str) -> np.ndarray:
    try:
        array: np.ndarray = arrays[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {key} cannot be read: {error}") from None
    return array


def _check_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{where} has shape {labels.shape}, expected one class number per image")
    if not len(labels):
        raise ValueError(f"{where} is empty")
    if labels.dtype.kind not in "iubf" or (labels.dtype.kind == "f" and not np.all(labels == np.floor(labels))):
        raise ValueError(f"{where} is {labels.dtype}, expected whole class numbers")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"{where} has the label {wrong[0]:g} ({len(wrong)} such), expected 0..{classes - 1}")
    return labels.astype(np.int64)


def _folder_splits(path: Path) -> tuple[str, ...]:
    found = tuple(split for split in SPLITS if (path / split).is_dir())
    if "train" in found:
        return found
    if not _folders(path):
        raise ValueError(f"{path} is empty; expected a folder of images per class, or train and test with such folders")
    return ("train",)


def _load_folder(path: Path, wanted: tuple[int, int, int], classes: int, split: str) -> Images:
    if split not in _folder_splits(path):
        raise ValueError(f"{path} has no {split} split")
    folder = path / split if (path / split).is_dir() else path
    names = _folders(folder)
    if len(names) != classes:
        found = ", ".join(name.name for name in names) or "none"
        raise ValueError(f"{folder} has {len(names)} folders of images ({found}), expected one per class, {classes}")
    files, labels = [], []
    for number, name in enumerate(names):
        members = image_files(name)
        if not members:
            raise ValueError(f"{name} has no images; class {number} would be empty")
        files += members
        labels += [number] * len(members)
    images = np.empty((len(files), *wanted), dtype=np.float32)
    for index, file in enumerate(files):
        images[index] = fit(read_image(file), wanted, str(file))
    return Images(images, np.array(labels, dtype=np.int64))


def pictures(path: Path) -> list[Picture]:
    """The pictures of a .tar archive by split, class and name, numbers in names counting as numbers.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no archive of pictures.
    """
    return archive.pictures(path, SPLITS, SUFFIXES)


def decode(path: Path, chosen: Sequence[Picture], labels: np.ndarray, wanted: tuple[int, int, int]) -> Images:
    """Read chosen pictures of a .tar archive, in their order.

    Args:
        path: The archive.
        chosen: What `pictures` found.
        labels: int [n], their class numbers.
        wanted: Height, width and channels that the images shall have.

    Raises:
        ValueError: One cannot be read; the message names it.
    """
    images = np.empty((len(chosen), *wanted), dtype=np.float32)
    for index, picture in enumerate(chosen):
        images[index] = fit(_decode(path, picture), wanted, archive.shown(picture))
    return Images(images, labels.astype(np.int64))


def _load_archive(path: Path, wanted: tuple[int, int, int], classes: int, split: str) -> Images:
    found = [picture for picture in pictures(path) if picture.split == split]
    if not found:
        raise ValueError(f"{path} has no {split} split")
    names = sorted({picture.category for picture in found})
    if len(names) != classes:
        raise ValueError(f"{path}: {split} has {len(names)} folders of images, expected one per class, {classes}")
    return decode(path, found, np.array([names.index(picture.category) for picture in found]), wanted)


def _decode(path: Path, picture: Picture) -> np.ndarray:
    content = io.BytesIO(archive.read(path, picture))
    return read_image(content, f"{path}: {archive.shown(picture)}")


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The images in a class's folder and the folders below it, in alphabetical order."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )

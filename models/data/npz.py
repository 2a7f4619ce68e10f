"""Images in an .npz file: an array of images and one of labels for each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedssh.models.data import arrays, classes, published
from fedssh.models.data.arrays import Array
from fedssh.models.data.folders import SPLITS
from fedssh.models.data.pixels import Changes, Size, convert
from fedssh.models.data.reading import Description, Reading

NAMES = "class_names"
MAX_LABEL = 10_000


def splits(path: Path) -> tuple[str, ...]:
    """Which of train, val and test there are."""
    held = arrays.headers(path)
    return tuple(split for split in SPLITS if _keys(held, split))


def names(path: Path) -> tuple[str, ...] | None:
    """The class names in a file, or of the published file that it is; None when nobody says."""
    return _own_names(path, arrays.headers(path))


def load(
    path: Path, wanted: Size, number: int, split: str, reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Images, labels and patients of one split, see `images.load`."""
    held = arrays.headers(path)
    keys = _keys(held, split)
    if not keys:
        raise ValueError(f"{path} has no {split} split; it holds {', '.join(held) or 'nothing'}")
    found = arrays.read(path, [key for key in keys if key])
    images, own = found[keys[0]], _own_names(path, held)
    most = (len(own) if own else MAX_LABEL) if reading.held else number
    labels = _check_labels(found[keys[1]], most, f"{path}: {keys[1]}")
    patients = found[keys[2]] if keys[2] else None
    for key, array in zip((keys[0], keys[2]), (images, patients), strict=True):
        if array is not None and (array.ndim == 0 or len(array) != len(labels)):
            raise ValueError(f"{path}: {key} has shape {array.shape}, but there are {len(labels)} labels")
    counts = np.bincount(labels, minlength=len(own or ()))
    numbers = reading.numbers(own, number, split, counts.tolist())
    table = np.array([-1 if one is None else one for one in numbers])
    labels = table[labels]
    if len(kept := np.flatnonzero(labels >= 0)) < len(labels):
        images, labels, patients = images[kept], labels[kept], None if patients is None else patients[kept]
    if not len(labels):
        raise ValueError(f"{path} has no images of the federation's classes in {split}")
    converted = convert(images, wanted, f"{path}: {keys[0]}", reading.new_white())
    if line := Changes(Counter({_size(images.shape): len(images)})).told(wanted):
        reading.tell(line)
    return converted, labels, patients


def describe(path: Path) -> Description:
    """What the file says of itself; of its images only the headers are read."""
    held = arrays.headers(path)
    keys = [found for split in SPLITS if (found := _keys(held, split))]
    if not keys:
        raise ValueError(f"{path} has no images and labels; it holds {', '.join(held) or 'nothing'}")
    sizes: Counter[Size] = Counter()
    for key in keys:
        shape = held[key[0]].shape
        if len(shape) not in (3, 4):
            raise ValueError(f"{path}: {key[0]} has shape {shape}, expected [n, height, width, channels]")
        sizes[_size(shape)] += shape[0]
    read = arrays.read(path, [key[1] for key in keys])
    own = _own_names(path, held)
    most = len(own) if own else MAX_LABEL
    labels = [_check_labels(read[key[1]], most, f"{path}: {key[1]}") for key in keys]
    return Description(sizes, len(own) if own else int(max(array.max() for array in labels)) + 1, own)


def _keys(held: Mapping[str, Array], split: str) -> tuple[str, str, str | None] | None:
    patients = f"{split}_patients" if f"{split}_patients" in held else None
    for images, labels in ((f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")):
        if images in held and labels in held:
            return images, labels, patients
    return None


def _size(shape: tuple[int, ...]) -> Size:
    """Of [n, height, width] or [n, height, width, channels]; transparency does not count."""
    height, width, channels = (*shape[1:], 1)[:3]
    return height, width, channels if channels not in (2, 4) else channels - 1


def _own_names(path: Path, held: Mapping[str, Array]) -> tuple[str, ...] | None:
    if NAMES not in held:
        return published.names(path)
    shape, dtype = held[NAMES]
    if len(shape) != 1 or dtype.kind not in "US":
        raise ValueError(f"{path}: {NAMES} is {dtype} of shape {shape}, expected one text per class")
    found = arrays.read(path, [NAMES])[NAMES]
    try:
        texts = found if dtype.kind == "U" else np.char.decode(found, "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: {NAMES} is no UTF-8") from None
    return tuple(classes.plain(name) for name in texts.tolist())


def _check_labels(labels: np.ndarray, number: int, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and labels.dtype.kind in "iubf" and _one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.ndim != 1:
        raise ValueError(
            f"{where} has shape {labels.shape}, expected one class number per image, or a single 1 in each row"
        )
    if not len(labels):
        raise ValueError(f"{where} is empty")
    if labels.dtype.kind not in "iubf" or (labels.dtype.kind == "f" and not np.all(labels == np.floor(labels))):
        raise ValueError(f"{where} is {labels.dtype}, expected whole class numbers")
    wrong = labels[(labels < 0) | (labels >= number)]
    if len(wrong):
        raise ValueError(f"{where} has the label {wrong[0]:g} ({len(wrong)} such), expected 0..{number - 1}")
    return labels.astype(np.int64)


def _one_hot(labels: np.ndarray) -> bool:
    ones = labels == 1
    return bool(np.all((ones | (labels == 0)).all(axis=1) & (ones.sum(axis=1) == 1)))

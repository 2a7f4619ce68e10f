"""Local data: what an image set is, and loading one.

A data set is one of

    an .npz file      train_images, train_labels, val_images, … (MedMNIST), or x_train, y_train, x_test, … (Keras);
                      images [n, height, width] or [n, height, width, 1|3|4], labels [n] or [n, 1], or one-hot
                      [n, classes]; if known, train_patients, val_patients, … [n], and class_names, an array of texts
                      the label -1 in train is of an image whose class nobody knows, see `unlabelled`
    a folder          CLASS/*.png, or SPLIT/CLASS/*.png, see `folders`; a folder without splits is all train;
                      unlabelled/*.png beside the classes
    a .tar archive    [FOLDER/]SPLIT/CLASS/*.png, uncompressed; read in memory, never extracted
    a .csv table      of files and labels, see `table`
    a table           .csv or .parquet, of features and a target, see `frame`: a row is an image of [1, width, 1]

Classes are numbered in the alphabetical order of their folders, of all splits together, and then as the federation's
names say, see `classes`. Images of any size and mode are converted to the size and the number of channels that the
network takes, see `pixels`; one line says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssh.models.data import features, folders, holdout, npz, pictures
from fedssh.models.data.archive import Picture
from fedssh.models.data.holdout import Row
from fedssh.models.data.pixels import Size
from fedssh.models.data.reading import AS_IT_IS, Description, Reading
from fedssh.models.tasks import CLASSES, LABELS

SPLITS = folders.SPLITS
ARCHIVE = pictures.ARCHIVE


@dataclass(frozen=True)
class Images:
    """Labelled images of one split.

    Attributes:
        images: float32 [n, height, width, channels], in 0..1; of a table [n, 1, width, 1], standardised.
        labels: int64 [n], in 0..classes-1; of a regression float32 [n, targets], in their own units.
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


def is_table(path: Path, reading: Reading = AS_IT_IS) -> bool:
    """Whether a data set is a table of features."""
    return features.is_table(path, reading)


def splits(path: Path, reading: Reading = AS_IT_IS) -> tuple[str, ...]:
    """Which of train, val and test a data set has; a holdout that is cut is its val.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set.
    """
    if features.is_table(path, reading):
        found = list(features.splits(path, reading))
    else:
        found = list(pictures.find(path, reading).files) if pictures.has_pictures(path) else list(npz.splits(path))
    if reading.cut is not None:
        found += holdout.POOL
    return tuple(split for split in SPLITS if split in found)


def rows(path: Path, reading: Reading = AS_IT_IS) -> list[Row]:
    """What a holdout is cut out of: every image of `train` and `val` by name, without unpacking it.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set, or the patients cannot be told.
    """
    if features.is_table(path, reading):
        return features.rows(path, reading)
    if pictures.has_pictures(path):
        listed = pictures.listed(path, pictures.find(path, reading), reading)
        return [one.row for split in holdout.POOL for one in listed.get(split, ())]
    stored = npz.stored(path, npz.MAX_LABEL, reading)[1]
    return [row for split in holdout.POOL for row in stored.get(split, ())]


def targets(path: Path, number: int, reading: Reading) -> np.ndarray:
    """The numbers to predict of the training images, without unpacking these; of `val` where none are to be trained on.

    Args:
        number: How many there are for each image.
        reading: How they are read, for a regression; with the names that its targets shall have.

    Returns:
        float32 [n, targets], in the order of `reading.names`.
    """
    split = "train" if "train" in splits(path, reading) else "val"
    if features.is_table(path, reading):
        return features.targets(path, split, reading)
    if pictures.has_pictures(path):
        return pictures.targets(path, number, split, reading)
    return npz.targets(path, number, split, reading)


def task(path: Path, reading: Reading = AS_IT_IS) -> str:
    """What the labels are: as `reading` says, else what they look like, see `labels`."""
    if reading.task is not None:
        return reading.task
    if features.is_table(path, reading):
        return features.task(path, reading)
    return pictures.task(path, reading) if pictures.has_pictures(path) else npz.task(path)


def names(path: Path, reading: Reading = AS_IT_IS) -> tuple[str, ...] | None:
    """What a data set calls its classes, in label order; None when it does not say.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set.
    """
    if features.is_table(path, reading):
        return features.names(path, reading)
    return pictures.find(path).names if pictures.has_pictures(path) else npz.names(path)


def load(
    path: Path,
    spec_input: Size | list[int],
    number: int,
    split: str,
    reading: Reading = AS_IT_IS,
) -> Images:
    """Load one split of a data set, as the network takes it.

    Args:
        path: An .npz file, a folder or a .tar archive.
        spec_input: Height, width and channels that the images shall have.
        number: How many classes the network tells apart, or how many numbers it predicts.
        split: train, val or test.
        reading: What the files do not say.

    Raises:
        FileNotFoundError: No such file or folder.
        classes.NamesError: Its classes are not the federation's; the hint says what to write.
        ValueError: Unreadable, wrong shapes, labels outside 0..classes-1, or no such split.
    """
    height, width, channels = spec_input
    wanted = (height, width, channels)
    if features.is_table(path, reading):
        return Images(*features.load(path, wanted, number, split, reading))
    if pictures.has_pictures(path):
        return Images(*pictures.load(path, wanted, number, split, reading))
    return Images(*npz.load(path, wanted, number, split, reading))


def unlabelled(path: Path, spec_input: Size | list[int], reading: Reading = AS_IT_IS) -> np.ndarray | None:
    """The images of a data set whose class nobody knows, as the network takes them.

    They are those of `train` with the label -1 in an .npz file, and those in `unlabelled/` of a folder or an archive. A
    table has none.

    Returns:
        float32 [n, height, width, channels], in 0..1; None where there are none.

    Raises:
        ValueError: They cannot be read, or take more memory than they may.
    """
    height, width, channels = spec_input
    if features.is_table(path, reading):
        return None
    one_set = pictures.unlabelled if pictures.has_pictures(path) else npz.unlabelled
    return one_set(path, (height, width, channels), reading)


def count_unlabelled(path: Path, reading: Reading = AS_IT_IS) -> int:
    """How many these are; no image is unpacked."""
    if features.is_table(path, reading):
        return 0
    if pictures.has_pictures(path):
        return len(pictures.explore(path, reading).unlabelled)
    return npz.count_unlabelled(path, reading.task)


def hold_out(
    labels: np.ndarray, share: float, seed: int, patients: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples in two: whole patients where patients are known, else keeping the shares of the classes.

    Args:
        labels: int [n], or float [n, targets], of which the first is taken for a class.
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
        kinds = labels if labels.ndim == 1 else labels[:, 0]
        by_class = order[np.argsort(kinds[order], kind="stable")]
        number = min(max(round(share * owners), 1), owners - 1)
        chosen = by_class[(2 * np.arange(number) + 1) * owners // (2 * number)]
    else:
        reached = np.cumsum(np.bincount(owner)[order])
        chosen = order[: min(max(int(np.searchsorted(reached, share * len(labels), "right")), 1), owners - 1)]
    held = np.isin(owner, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


def describe(path: Path, reading: Reading = AS_IT_IS) -> Description:
    """What a data set says of itself, without unpacking its images.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: It is no data set, has files that are no images, or fewer than two classes.
    """
    if features.is_table(path, reading):
        if reading.task == LABELS:
            raise ValueError(
                f"{path} is a table of features, which has one target: several labels at once are of images"
            )
        found = features.describe(path, reading)
    elif pictures.has_pictures(path):
        found = pictures.describe(path, reading)
    else:
        found = npz.describe(path, reading.task)
    if found.task == CLASSES and found.classes < 2:
        raise ValueError(f"{path} has {found.classes} class{_only(found)}, expected at least 2")
    return found


def _only(found: Description) -> str:
    return f" ({found.names[0]})" if found.names else ""


def decode(path: Path, chosen: Sequence[Picture], labels: np.ndarray, wanted: Size) -> Images:
    """Read chosen pictures of a .tar archive, in their order.

    Args:
        path: The archive.
        chosen: What `archive.pictures` found.
        labels: int [n], their class numbers.
        wanted: Height, width and channels that the images shall have.

    Raises:
        ValueError: Some cannot be read; the message names them.
    """
    images = pictures.unpack(path, chosen, pictures.from_archive(path), wanted)
    return Images(images, labels.astype(np.int64))

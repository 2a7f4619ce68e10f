"""Images that nobody has labelled, all at once, to train on.

`load` reads them as `unlabelled` does for predictions: an image, a folder with all that is below it, an .npz file; or a
table. `load_all` also takes those of a site's own data set that have no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssh.models.data import images as image_sets
from fedssh.models.data.columns import Columns
from fedssh.models.data.new_rows import NewRows
from fedssh.models.data.pixels import Size
from fedssh.models.data.reading import Reading
from fedssh.models.data.unlabelled import Unlabelled


@dataclass(frozen=True)
class Loaded:
    """What was found.

    Attributes:
        images: float32 [n, height, width, channels], in 0..1; of a table [n, 1, width, 1], standardised.
        remarks: A line each on what was passed over.
    """

    images: np.ndarray
    remarks: tuple[str, ...]


def load(path: Path, wanted: Size | Sequence[int], reading: Reading, table: Columns | None = None) -> Loaded:
    """Load them as a network takes them.

    Args:
        path: Where they are.
        wanted: Height, width and channels.
        reading: What white is, what columns are called, and how much may stand in memory.
        table: What is agreed of a table.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: None can be read, or they take more memory than they may.
    """
    height, width, channels = wanted
    size = (height, width, channels)
    found: Unlabelled | NewRows
    found = Unlabelled(path, size, reading.white) if table is None else NewRows(path, table, reading.columns)
    count = len(found)
    if reading.store is not None:
        reading.store.hold(path, count, size, found.unit)
    images = np.empty((count, *size), np.float32)
    kept, wrong = 0, []
    for one in found:
        if one.pixels is None:
            wrong.append(f"{one.name} ({one.error})")
        else:
            images[kept] = one.pixels
            kept += 1
    if not kept:
        raise ValueError(f"{path}: none of {count:,} unlabelled {found.unit} can be read, such as {wrong[0]}")
    passed = [f"{number:,} {kind} in {path} passed over" for kind, number in sorted(found.passed.items())]
    if wrong:
        passed.append(f"{len(wrong):,} of {count:,} {found.unit} in {path} cannot be read, such as {wrong[0]}")
    return Loaded(images[:kept], (f"{kept:,} {found.unit} from {path}", *passed))


def load_all(
    data: Path, more: Path | None, wanted: Size | Sequence[int], reading: Reading, table: Columns | None = None
) -> Loaded | None:
    """Load what a site has: those of its data set, and behind them those of another place.

    Args:
        data: The site's data set, in which some may have no label.
        more: Where others are.

    Returns:
        None where there are none at all.

    Raises:
        FileNotFoundError, ValueError: As `load`.
    """
    found = []
    own = image_sets.unlabelled(data, list(wanted), reading)
    if own is not None:
        found.append(Loaded(own, (f"{len(own):,} images of {data} have no label",)))
    if more is not None:
        found.append(load(more, wanted, reading, table))
    if not found:
        return None
    every = np.concatenate([one.images for one in found]) if len(found) > 1 else found[0].images
    return Loaded(every, tuple(line for one in found for line in one.remarks))

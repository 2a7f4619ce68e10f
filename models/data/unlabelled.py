"""Images that nobody has labelled, one after another: a file, a folder with all that is below it, or an .npz file.

What cannot be read is an answer of its own, so that one damaged file of a thousand stops nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedssh.models.data import arrays, folders
from fedssh.models.data.pixels import SUFFIXES, PictureError, Size, White, convert, fit, most_pixels, read_image

KEYS = ("images", "x", "test_images", "x_test")


@dataclass(frozen=True)
class One:
    """An image as a network takes it.

    Attributes:
        name: Its file below the folder, or its number in the array.
        pixels: float32 [height, width, channels] in 0..1; None where it cannot be read.
        error: Why not.
    """

    name: str
    pixels: np.ndarray | None
    error: str | None = None


class Unlabelled:
    """The images at a path.

    Args:
        path: An image, a folder or an .npz file.
        wanted: Height, width and channels that the network takes.
        white: What white is in integer pixels; None is the largest value of their type.
        key: The array of an .npz file.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: There are no images.
    """

    unit = "images"

    def __init__(self, path: Path, wanted: Size, white: int | None = None, key: str | None = None) -> None:
        self.path = path
        self.passed: Counter[str] = Counter()
        self._wanted = wanted
        # One image may well be dark: only a whole set says that white is something else.
        self._white = White(white, dark=True)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        self._array = self._held(key) if path.suffix == ".npz" else None
        self._files = [] if self._array is not None else self._found()

    def __len__(self) -> int:
        return len(self._files) if self._array is None else len(self._array)

    def __iter__(self) -> Iterator[One]:
        if self._array is not None:
            for number, image in enumerate(self._array):
                yield self._one(str(number), image)
            return
        for file in self._files:
            name = file.name if file == self.path else str(file.relative_to(self.path))
            try:
                yield self._one(name, read_image(file, most_pixels(self._wanted)))
            except PictureError as error:
                yield One(name, None, str(error))
            except OSError as error:
                yield One(name, None, error.strerror or str(error))

    def _one(self, name: str, image: np.ndarray) -> One:
        try:
            return One(name, fit(self._white.scale(image, "it"), self._wanted, "it"))
        except ValueError as error:
            return One(name, None, str(error))

    def _held(self, key: str | None) -> np.ndarray:
        there = arrays.headers(self.path)
        chosen = key or next((one for one in KEYS if one in there), None)
        if chosen is None or chosen not in there:
            raise ValueError(
                f"{self.path} has no array {chosen or ' or '.join(KEYS)}; it holds {', '.join(there) or 'nothing'}: "
                "--key says which"
            )
        found = arrays.read(self.path, [chosen])[chosen]
        if found.ndim == 3:
            found = found[..., np.newaxis]
        if found.ndim != 4 or not len(found):
            raise ValueError(f"{self.path}: {chosen} has shape {found.shape}, expected [n, height, width, channels]")
        convert(found[:1], self._wanted, f"{self.path}: {chosen}", White(self._white.value, dark=True))
        return found

    def _found(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        wrong: dict[str, list[str]] = {}
        found = sorted(folders.below(self.path, self.passed, wrong))
        for kind, names in wrong.items():
            self.passed[kind] += len(names)
        if not found:
            raise ValueError(f"{self.path} has no images ({', '.join(sorted(SUFFIXES))})")
        return found

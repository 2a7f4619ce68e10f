"""Decoded images in a file, for a set that is larger than memory: written once, read row by row.

    pixels/SPLIT.pixels    n rows of height * width * channels values, uint8, uint16 or float32, as the machine has them
    pixels/SPLIT.json      {"format", "key", "shape", "dtype", "white", "told"}; written last, so what it names is whole

Pixels stand there as they are stored in the data set where the network takes them so, and become float32 in 0..1 when
they are read; what is resized, or of another kind, stands there as float32. Either way the network gets the very
numbers that it gets of a set in memory. `key` says what the file was made from: files, their sizes and times, and how
they are read. Another key makes it anew. The file belongs to the machine and is no format for others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedssh.models.data.pixels import Size, White, fit

FORMAT = 1
SPARE_BYTES = 64 << 20  # that stay free on the disk
BLOCK_BYTES = 16 << 20
Pieces = Iterator[tuple[str, np.ndarray]]  # a name for messages, and images as they are stored


class PixelFile:
    """Images in a file, or some of them: as an array to whoever takes some, and read when somebody reads them.

    Args:
        file: Open for reading.
        count: How many rows it has.
        size: Of an image.
        dtype: Of its values.
        white: What becomes 1; None where the values are in 0..1 already.
        places: The rows that belong to it, in order; None is all.
    """

    def __init__(
        self,
        file: _Opened | BinaryIO,
        count: int,
        size: Size,
        dtype: Any,
        white: int | None,
        places: np.ndarray | None = None,
    ) -> None:
        self._file, self._count, self._size = file, count, size
        self._dtype, self._white = np.dtype(dtype), white
        self._places = np.arange(count) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array in memory: n, height, width and channels."""
        return (len(self), *self._size)

    def __getitem__(self, indices: np.ndarray) -> PixelFile:
        """Those with these indices; nothing is read."""
        return PixelFile(self._file, self._count, self._size, self._dtype, self._white, self._places[indices])

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Those with these indices as the network takes them: float32 [n, height, width, channels], in 0..1.

        Raises:
            OSError: The file cannot be read, or was cut short.
        """
        rows = self._places[indices]
        raw = np.empty((len(rows), *self._size), self._dtype)
        width = raw.itemsize * math.prod(self._size)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        begin = 0
        for end in ends:  # rows that stand one after another are read at once
            if end > begin:
                self._fill(raw[begin:end].reshape(-1).view(np.uint8).data, int(rows[begin]) * width)
            begin = end
        return scaled(raw, self._white)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            got = os.pread(self._file.fileno(), min(len(buffer) - done, BLOCK_BYTES), offset + done)
            if not got:
                raise OSError(errno.EIO, "decoded images were cut short", self._file.name)
            buffer[done : done + len(got)] = got
            done += len(got)


class _Opened:
    """A file that is open for as long as anybody has some of its images."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """As of a file."""
        return self._handle

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def scaled(pixels: np.ndarray, white: int | None) -> np.ndarray:
    """Pixels as they stand in a file -> float32 in 0..1, by the arithmetic of `White.scale`."""
    if white is None:
        return pixels
    found = pixels.astype(np.float32)
    found /= np.float32(white)
    return found


class Store:
    """Where decoded images are kept, and how much of them may be in memory instead.

    Args:
        folder: Of this purpose alone, in the state of the one process that uses it.
        most_bytes: Of images in memory, all splits together.
        tell: Called with one line on what is kept there.
        stop: When it is set, decoding ends after the images at hand.
    """

    def __init__(
        self,
        folder: Path,
        most_bytes: int,
        tell: Callable[[str], None] = lambda line: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._folder, self._most, self._tell, self._stop = folder, most_bytes, tell, stop
        self._taken = 0

    def begin(self) -> None:
        """Forget what is in memory: the sets are loaded anew."""
        self._taken = 0

    def takes(self, count: int, size: Size) -> bool:
        """Whether so many images are to stand in a file; if not, they count as in memory from now on."""
        needed = count * math.prod(size) * 4
        if self._taken + needed > self._most:
            return True
        self._taken += needed
        return False

    def hold(self, where: Path, count: int, size: Size, unit: str = "images") -> None:
        """Count images without labels as in memory from now on; they never stand in a file.

        Raises:
            ValueError: They take more than may be used.
        """
        if self.takes(count, size):
            needed = 4 * count * math.prod(size) / 1e6
            raise ValueError(
                f"{where}: {count:,} unlabelled {unit} take {needed:,.0f} MB of memory, more than may be used beside "
                "the others; give fewer, or let more of the memory be used (--memory)"
            )

    def kept(
        self, split: str, made_from: Sequence[Any], count: int, size: Size, white: White,
        pieces: Callable[[Callable[[str], None]], Pieces], tell: Callable[[str], None],
    ) -> PixelFile:  # fmt: skip
        """The images of a split, decoded unless they are there already.

        Args:
            made_from: What they depend on; anything that JSON takes.
            pieces: Gives them in order, some at a time: a name for messages, and pixels [n, height, width, channels] as
                they are stored. What it tells is kept, and told again when nothing has to be decoded.

        Raises:
            StoppedError: Somebody asked to stop; nothing is left behind.
            OSError: The disk cannot be written to; nothing is left behind.
            ValueError: They are no images, or there is no room for them on the disk.
        """
        key = hashlib.sha256(json.dumps([FORMAT, made_from, size, white.value, white.dark]).encode()).hexdigest()
        pixels, about = self._folder / f"{split}.pixels", self._folder / f"{split}.json"
        known = _known(about, pixels, key)
        if known is None:
            told: list[str] = []
            known = self._write(pixels, about, key, count, size, white, pieces(told.append), told)
        for line in known["told"]:
            tell(line)
        return PixelFile(_Opened(pixels), count, size, known["dtype"], known["white"])

    def _write(
        self, pixels: Path, about: Path, key: str, count: int, size: Size, white: White, pieces: Pieces,
        told: list[str],
    ) -> dict[str, Any]:  # fmt: skip
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in (about, pixels, *self._folder.glob(f"{pixels.name}.*")):
            old.unlink(missing_ok=True)
        needed = _shown(count * math.prod(size) * 4)
        self._tell(
            f"{pixels.stem}: {count:,} images would take {needed} of memory, more than may be used; they are decoded "
            f"into {pixels} and stream from there"
        )
        writer = _Writer(pixels.with_name(f"{pixels.name}.part"), count, size, white)
        try:
            with writer:
                for where, images in pieces:
                    if self._stop is not None and self._stop.is_set():
                        raise StoppedError
                    writer.add(images, where)
                writer.end()
            os.replace(writer.part, pixels)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise NoRoomError(self._folder, count * math.prod(size) * writer.itemsize) from None
            raise
        finally:
            for rest in self._folder.glob(f"{pixels.name}.*"):
                rest.unlink(missing_ok=True)
        known = {
            "format": FORMAT, "key": key, "shape": [count, *size], "dtype": writer.dtype.str, "white": writer.white,
            "told": told,
        }  # fmt: skip
        half = about.with_name(f"{about.name}.part")
        half.write_text(json.dumps(known))
        os.replace(half, about)
        self._tell(f"{pixels.stem}: decoded, {_shown(pixels.stat().st_size)} in {pixels}")
        return known


class StoppedError(Exception):
    """Somebody asked to stop while images were decoded."""


class NoRoomError(ValueError):
    """The disk has no room for the decoded images."""

    def __init__(self, folder: Path, needed: int) -> None:
        free = shutil.disk_usage(folder).free
        super().__init__(
            f"the decoded images take {_shown(needed)} in {folder}, where {_shown(free)} are free; make room there, "
            "give another --state, or let more of the memory be used (--memory)"
        )


class _Writer:
    """Writes rows; begins with the type that the first images have, and goes over to float32 where one needs it."""

    def __init__(self, part: Path, count: int, size: Size, white: White) -> None:
        self.part, self._count, self._size, self._bright = part, count, size, white
        self._file: BinaryIO | None = None
        self._done = 0
        self.dtype = np.dtype(np.uint8)
        self.white: int | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def itemsize(self) -> int:
        """Bytes of a value, as far as is known."""
        return self.dtype.itemsize

    def add(self, images: np.ndarray, where: str) -> None:
        """Write some more."""
        rows, white = self._rows(images, where)
        if self._file is None:
            self._open(rows.dtype, white)
        elif rows.dtype != self.dtype or white != self.white:
            if self.white is not None:
                self._go_over()
            rows = scaled(rows, white)
        assert self._file is not None
        self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self._done += len(rows)

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            OSError: There were fewer or more than was said: the data set has changed meanwhile.
        """
        if self._done != self._count or self._file is None:
            raise OSError(f"{self._done:,} images were decoded of {self._count:,}: the data set has changed meanwhile")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _rows(self, images: np.ndarray, where: str) -> tuple[np.ndarray, int | None]:
        """What is written of some images, and what white is in it; None of float32 in 0..1."""
        if images.shape[1:] == self._size:
            found = self._bright.scale(images, where)
            deep = images.dtype in (np.uint8, np.uint16)
            return (images, self._bright.of(images.dtype.itemsize * 8)) if deep else (found, None)
        return np.stack([fit(self._bright.scale(image, where), self._size, where) for image in images]), None

    def _open(self, dtype: np.dtype[Any], white: int | None) -> None:
        self._make_room(dtype)
        self.dtype, self.white = dtype, white
        self._file = open(os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")  # noqa: SIM115 - see __exit__

    def _make_room(self, dtype: np.dtype[Any]) -> None:
        needed = self._count * math.prod(self._size) * dtype.itemsize
        if shutil.disk_usage(self.part.parent).free < needed + SPARE_BYTES:
            raise NoRoomError(self.part.parent, needed)

    def _go_over(self) -> None:
        """Write what there is as float32, and go on so."""
        assert self._file is not None
        self._file.flush()
        old, older, white = self._file, self.part.with_name(f"{self.part.name}.old"), self.white
        os.replace(self.part, older)
        before = PixelFile(old, self._done, self._size, self.dtype, white)
        try:
            self._open(np.dtype(np.float32), None)
            many = max(BLOCK_BYTES // (math.prod(self._size) * 4), 1)
            for begin in range(0, self._done, many):
                rows = before.read(np.arange(begin, min(begin + many, self._done)))
                self._file.write(rows.reshape(-1).view(np.uint8).data)
        finally:
            old.close()
            older.unlink(missing_ok=True)


def _known(about: Path, pixels: Path, key: str) -> dict[str, Any] | None:
    """What a file says that was made from the same, and is whole."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known: dict[str, Any] = json.loads(about.read_bytes())
        whole = math.prod(known["shape"]) * np.dtype(known["dtype"]).itemsize
        if known["format"] == FORMAT and known["key"] == key and pixels.stat().st_size == whole:
            return known
    return None


def stamp(path: Path) -> list[Any]:
    """By which a file is known again: its size, and when it was changed."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def digest(values: Sequence[Any]) -> str:
    """A short name for many values."""
    whole = hashlib.sha256()
    for value in values:
        whole.update(json.dumps(value).encode())
        whole.update(b"\n")
    return whole.hexdigest()


def _shown(size: float) -> str:
    unit, factor = next((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 0)) if size >= factor)
    return f"{size / (factor or 1e3):.1f} {unit}"

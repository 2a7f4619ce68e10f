"""Arrays in an .npz file that may come from anywhere: what it claims is checked before anything is read.

An .npz file is a zip archive with a member NAME.npy per array: a header with type and shape, then the values. Every
size is bounded by the file's own directory, and a header that says something else than its member's size is refused.
Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MAX_MEMBERS = 10_000
MAX_HEADER = 65_536  # NumPy writes a few hundred bytes
PIECE_BYTES = 16 << 20  # of an array that is read piece by piece
MAX_BYTES = 1 << 36  # of all arrays together, unless the caller knows better
# What zip archives, decompressors and NumPy's parser of headers raise when bytes are not what they should be.
BROKEN = (
    OSError, ValueError, EOFError, RuntimeError, LookupError, TypeError, SyntaxError, OverflowError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError,
)  # fmt: skip


class Array(NamedTuple):
    """What an array's header claims, and its member's size agrees with."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class ArraysError(ValueError):
    """The file or one of its arrays cannot be used."""


def headers(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Type and shape of every array, by name; only the first bytes of each member are unpacked.

    Raises:
        FileNotFoundError: No such file.
        ArraysError: It is no .npz file, or an array is not what it claims to be.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            return _headers(path, archive, max_bytes)
    except ArraysError:
        raise
    except BROKEN:
        raise ArraysError(f"{path} is no readable .npz file of arrays") from None


def read(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read arrays whose headers have been looked at.

    Raises:
        ArraysError: One cannot be read; the message says which.
    """
    import numpy as np

    found: dict[str, np.ndarray] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for name in names:
                found[name] = arrays[name]
    except BROKEN as error:
        raise ArraysError(f"{path}: {_shown(name)} cannot be read: {' '.join(str(error).split())}") from None
    return found


class Unread:
    """An array in a file, or some rows of it, that are read piece by piece; memory holds a piece.

    Args:
        places: The rows, ascending; None is all.
    """

    def __init__(self, path: Path, name: str, header: Array, places: np.ndarray | None = None) -> None:
        import numpy as np

        self._path, self._name, self._header = path, name, header
        self._places = np.arange(header.shape[0] if header.shape else 0) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ndim(self) -> int:
        """As of the array itself."""
        return len(self._header.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the rows that belong to it."""
        return (len(self._places), *self._header.shape[1:])

    @property
    def places(self) -> list[int]:
        """The rows that belong to it."""
        found: list[int] = self._places.tolist()
        return found

    def __getitem__(self, indices: np.ndarray) -> Unread:
        """Those with these indices, which must be ascending; nothing is read."""
        return Unread(self._path, self._name, self._header, self._places[indices])

    def pieces(self) -> Iterator[np.ndarray]:
        """The rows in their order, some at a time.

        Raises:
            ArraysError: The array cannot be read.
        """
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{self._name}.npy") as file:
                yield from self._unpacked(file)
        except ArraysError:
            raise
        except BROKEN as error:
            said = " ".join(str(error).split())
            raise ArraysError(f"{self._path}: {_shown(self._name)} cannot be read: {said}") from None

    def _unpacked(self, file: IO[bytes]) -> Iterator[np.ndarray]:
        import numpy as np

        count, width = self._header.shape[0], math.prod(self._header.shape[1:]) * self._header.dtype.itemsize
        if _begin(file):
            raise ArraysError(f"{self._path}: {_shown(self._name)} stands column by column; save it in the usual order")
        many = max(PIECE_BYTES // max(width, 1), 1)
        for begin in range(0, count, many):
            rows = min(many, count - begin)
            raw = file.read(rows * width)
            if len(raw) < rows * width:
                raise ArraysError(f"{self._path}: {_shown(self._name)} ends early")
            first, last = np.searchsorted(self._places, (begin, begin + rows))
            if first < last:
                whole = np.frombuffer(raw, self._header.dtype).reshape(rows, *self._header.shape[1:])
                chosen = self._places[first:last] - begin
                yield whole if len(chosen) == rows else whole[chosen]
        if file.read(1):
            raise ArraysError(f"{self._path}: {_shown(self._name)} goes on behind its end")


def _begin(file: IO[bytes]) -> bool:
    """Go behind the header of an array that was looked at; whether it stands column by column."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return bool(parse(file)[1])


def _headers(path: Path, archive: zipfile.ZipFile, max_bytes: int) -> dict[str, Array]:
    members = archive.infolist()
    claimed = sum(member.file_size for member in members)
    if claimed > max_bytes or len(members) > MAX_MEMBERS:
        raise ArraysError(
            f"{path} claims {claimed:,} bytes in {len(members):,} arrays, "
            f"at most {max_bytes:,} in {MAX_MEMBERS:,} are read"
        )
    found: dict[str, Array] = {}
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in found or name == member.filename:
            raise ArraysError(f"{path}: {_shown(name)} stands twice or is no array")
        with archive.open(member) as file:
            found[name] = _header(path, name, file, member.file_size)
    return found


def _header(path: Path, name: str, file: IO[bytes], size: int) -> Array:
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ArraysError(f"{path}: {_shown(name)} is of version {version} of the array format, expected 1 or 2")
    first = version == (1, 0)
    length = file.read(2 if first else 4)
    (claimed,) = struct.unpack("<H" if first else "<I", length)
    if claimed > MAX_HEADER:
        raise ArraysError(f"{path}: {_shown(name)} claims a header of {claimed:,} bytes")
    header = io.BytesIO(length + file.read(claimed))
    parse = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = parse(header)
    if dtype.hasobject:
        return Array(tuple(shape), dtype)  # a pickle of any size, which `read` refuses
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ArraysError(f"{path}: {_shown(name)} claims {shape} {dtype}, but has {size:,} bytes")
    return Array(tuple(shape), dtype)


def _shown(name: str) -> str:
    """A name of unknown origin without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])

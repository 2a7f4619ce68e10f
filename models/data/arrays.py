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
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

MAX_MEMBERS = 10_000
MAX_HEADER = 65_536  # NumPy writes a few hundred bytes
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

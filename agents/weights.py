"""The model file: a safetensors file of float32 tensors whose header says which architecture they belong to.

    uint64    length of the header, little-endian
    header    {"__metadata__": {"format": "fedssh 1", "spec": "<canonical JSON>"},
               "conv_1/kernel": {"dtype": "F32", "shape": [3, 3, 1, 32], "data_offsets": [0, 1152]}, …}, space-padded
    tensors   little-endian float32, without gaps

What is summed under masks is written in the same way as uint32 ("U32"), see `masks.numbers`; a last tensor, "examples"
of shape [1], is the number of images. Whoever expects weights refuses such a file.

Weights travel, code does not. A reader builds the model from its own `models/` and loads the tensors only
after the header matched the architecture it already has, tensor for tensor. Reading a header needs neither
NumPy nor Keras.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fedssh.errors import BundleError, WeightsError
from fedssh.files import whole_file
from fedssh.forms import canonical, parse, shown
from fedssh.rules.shapes import match_shapes

if TYPE_CHECKING:
    import numpy as np

FORMAT = "fedssh 1"
MAX_BYTES = 1 << 30
MAX_HEADER_BYTES = 1 << 20
COUNT = "examples"
_BLOCK = 1 << 20
_FLOATS, _WORDS = "F32", "U32"


@dataclass(frozen=True)
class Header:
    """What a model file says of itself.

    Attributes:
        spec: The architecture: a registered name and its parameters.
        tensors: Shape by name, in the order of the file.
        offset: Where the tensors begin, in bytes.
        size: The whole file, in bytes.
        words: Whether the tensors are uint32, of a sum under masks, and no weights.
    """

    spec: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    offset: int
    size: int
    words: bool = False

    @property
    def architecture(self) -> str:
        """SHA-256 of the canonical spec: equal for every model with this architecture."""
        return architecture_hash(self.spec)

    @property
    def parameters(self) -> int:
        """The number of values, each of four bytes."""
        return sum(math.prod(shape) for shape in self.tensors.values())


def architecture_hash(spec: dict[str, Any]) -> str:
    """SHA-256 of a spec's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(spec)).hexdigest()


def read_header(path: Path, max_bytes: int = MAX_BYTES) -> Header:
    """Read and check a model file's header; every size is bounded before it is read.

    Raises:
        WeightsError: Too large, truncated, not float32, overlapping, with gaps, or without its spec.
        FileNotFoundError: No such file.
    """
    with open(path, "rb") as file:
        return header_of(file, max_bytes)


def header_of(file: BinaryIO, max_bytes: int = MAX_BYTES) -> Header:
    """The same of a model file that is open; where it stands afterwards is not said.

    Raises:
        WeightsError: See `read_header`.
    """
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise WeightsError(f"the model file has {size:,} bytes, expected at most {max_bytes:,}")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise WeightsError(f"the model file's header claims {length:,} bytes of a file of {size:,}")
    try:
        # Decoded here: json would guess UTF-16 and UTF-32 too, which the safetensors library does not read.
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the model file's header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WeightsError("the model file's header is not an object")
    spec = _read_spec(header.pop("__metadata__", None))
    tensors, words = _read_tensors(header, size - 8 - length)
    return Header(spec, tensors, 8 + length, size, words)


def match(found: Header, expected: Header) -> None:
    """Check that two model files have the same architecture, tensor for tensor.

    Raises:
        WeightsError: Names the first difference.
    """
    if found.spec != expected.spec:
        raise WeightsError(f"the architecture is {_short(found.spec)}, expected {_short(expected.spec)}")
    if found.words != expected.words:
        raise WeightsError(f"the tensors are {_dtype(found)}, expected {_dtype(expected)}")
    match_shapes(found.tensors, expected.tensors)
    if found.words and list(found.tensors) != list(expected.tensors):
        raise WeightsError("the tensors stand in another order than those that they are added to")


def of_words(header: Header) -> Header:
    """The header of an update for a sum under masks, of the same architecture; its offset and size are not said."""
    return dataclasses.replace(header, tensors={**header.tensors, COUNT: (1,)}, size=header.size + 4, words=True)


def write_words(path: Path, vector: bytes, tensors: Mapping[str, tuple[int, ...]], spec: dict[str, Any]) -> Header:
    """Write an update for a sum under masks, whole or not at all.

    Args:
        vector: uint32 [n + 1], little-endian: of all tensors one after the other, and the number of images.
        tensors: Their shapes by name, in the order of the model file that the update starts from.
        spec: The architecture they belong to.

    Raises:
        OSError: The disk is full or read-only. Nothing is left behind.
    """
    with whole_file(path) as file:
        file.write(_header_bytes({**tensors, COUNT: (1,)}, spec, _WORDS))
        file.write(vector)
    return read_header(path)


def write_weights(path: Path, tensors: Mapping[str, np.ndarray], spec: dict[str, Any]) -> Header:
    """Write a model file, whole or not at all. Equal weights give equal bytes.

    Args:
        tensors: float32 arrays by Keras variable path, in build order, which the file keeps.
        spec: The architecture they belong to.

    Raises:
        WeightsError: An array is not float32.
        OSError: The disk is full or read-only. Nothing is left behind.
    """
    import numpy as np

    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise WeightsError(f"the tensor {name} is {array.dtype}, expected float32")
    with whole_file(path) as file:
        file.write(_header_bytes({name: array.shape for name, array in tensors.items()}, spec, _FLOATS))
        for array in tensors.values():
            file.write(np.ascontiguousarray(array, "<f4").data.cast("B") if array.size else b"")
    return read_header(path)


def read_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Load the tensors of a model file whose shapes are as expected.

    Returns:
        float32 arrays by name.

    Raises:
        WeightsError: The header is malformed or names other tensors, or the safetensors library does not read it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    match_shapes(_of_weights(path).tensors, expected)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"the model file is not a safetensors file: {error}") from None


def map_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
    """The tensors of a model file whose shapes are as expected, without reading them.

    Each look at a tensor maps its part of the file anew, and the memory goes when the array goes. So many files can be
    gone through tensor by tensor, however large they are. The file must stay as it is meanwhile.

    Returns:
        Read-only float32 arrays by name, in the order of the file.

    Raises:
        WeightsError: The header is malformed or names other tensors.
    """
    header = _of_weights(path)
    match_shapes(header.tensors, expected)
    return _Mapped(path, header)


def _of_weights(path: Path) -> Header:
    header = read_header(path)
    if header.words:
        raise WeightsError(f"{path} has an update for a sum under masks, expected weights")
    return header


def _dtype(header: Header) -> str:
    return _WORDS if header.words else _FLOATS


def _header_bytes(tensors: Mapping[str, tuple[int, ...]], spec: dict[str, Any], dtype: str) -> bytes:
    """The head of a file, of tensors of four bytes a value, up to where they begin."""
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "spec": canonical(spec).decode()}}
    end = 0
    for name, shape in tensors.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def count_non_finite(path: Path) -> int:
    """How many values of a model file are NaN or infinite; streamed, so memory does not grow with the file."""
    import numpy as np

    header = read_header(path)
    bad = 0
    with open(path, "rb") as file:
        file.seek(header.offset)
        while block := file.read(_BLOCK):
            values = np.frombuffer(block, "<f4")
            bad += values.size - int(np.count_nonzero(np.isfinite(values)))
    return bad


class _Mapped(Mapping[str, "np.ndarray"]):
    """What `map_weights` returns."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._shapes = header.tensors
        sizes = (4 * math.prod(shape) for shape in header.tensors.values())
        starts = itertools.accumulate(sizes, initial=header.offset)
        self._starts = dict(zip(header.tensors, starts, strict=False))  # the last one is the end of the file

    def __getitem__(self, name: str) -> np.ndarray:
        import numpy as np

        shape = self._shapes[name]
        if not math.prod(shape):  # nothing to map, which mmap refuses
            return np.zeros(shape, "<f4")
        return np.memmap(self._path, "<f4", "r", self._starts[name], shape).view(np.ndarray)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _read_spec(metadata: object) -> dict[str, Any]:
    if not isinstance(metadata, dict) or metadata.keys() != {"format", "spec"}:
        raise WeightsError("the model file does not say which architecture it belongs to")
    if metadata["format"] != FORMAT:
        raise WeightsError(f"the model file has format {shown(metadata['format'])}, this program reads {FORMAT!r}")
    try:
        return parse(metadata["spec"].encode())
    except (BundleError, AttributeError, UnicodeEncodeError):
        raise WeightsError("the model file's spec is not canonical JSON") from None


def _read_tensors(header: dict[str, Any], available: int) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Shapes by name, and whether they are words."""
    spans, tensors = [], {}
    first = next(iter(header.values()), None)
    dtype = _WORDS if isinstance(first, dict) and first.get("dtype") == _WORDS else _FLOATS
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise WeightsError(f"the tensor {name[:80]!r} is not described by dtype, shape and data_offsets")
        if entry["dtype"] != dtype:
            raise WeightsError(f"the tensor {name[:80]!r} is {shown(entry['dtype'], 20)}, expected {dtype}")
        shape, offsets = _whole_numbers(name, entry["shape"]), _whole_numbers(name, entry["data_offsets"])
        if len(offsets) != 2 or offsets[1] - offsets[0] != 4 * math.prod(shape):
            raise WeightsError(f"the tensor {name[:80]!r} does not have the size of its shape")
        spans.append((offsets, name))
        tensors[name] = shape
    spans.sort(key=lambda span: span[0])  # empty tensors keep the header's order
    end = 0
    for (start, stop), _ in spans:
        if start != end:
            raise WeightsError("the tensors of the model file overlap or leave gaps")
        end = stop
    if end != available:
        raise WeightsError(f"the model file holds {available:,} bytes of tensors, its header describes {end:,}")
    if not tensors:
        raise WeightsError("the model file has no tensors")
    return {name: tensors[name] for _, name in spans}, dtype == _WORDS


def _whole_numbers(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8 or any(type(n) is not int or not 0 <= n < 2**40 for n in value):
        raise WeightsError(f"the tensor {name[:80]!r} has absurd numbers in its header")
    return tuple(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands twice")
    return entries


def _short(spec: dict[str, Any]) -> str:
    return canonical(spec).decode()[:200]

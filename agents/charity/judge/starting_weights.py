"""Given weights: what a federation starts from when its coordinator has better than random ones. No Keras.

    FILE.safetensors    a model file of ours, of the same architecture or of one that shares tensors with it
    FILE.npz            float arrays, each named by layer and variable: `conv1:kernel` or `conv1/kernel`; Keras has no
                        slash in a layer's name, so `fire2/squeeze1x1:kernel` is also tried as fire2_squeeze1x1/kernel
    FILE.h5             weights that Keras wrote, or that a network of its was published in; all of the network but its
                        output must be in it, see `keras_files`

Of the first two, a tensor is taken when its name and shape are those of the architecture; the rest of the network keeps
its random weights, the rest of the file is not used. The file may come from anywhere: every size is bounded before it
is read, nothing in it is ever unpickled, and what is taken is finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh import weights
from fedssh.charity.judge import keras_files
from fedssh.errors import SettingsError, WeightsError
from fedssh.files import sha256_file
from fedssh.models.data import arrays
from fedssh.models.layout import Layer

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = weights.MAX_BYTES
SHOWN = 6  # names in a list for people

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """What an architecture gets from a file.

    Attributes:
        tensors: float32 arrays by variable path, finite, of the right shape; at least one.
        sha256: Of the file.
        missing: The architecture's tensors that the file does not have.
        misfits: Tensors of the right name with another shape: what the file has and what would fit.
        unused: The file's other tensors.
    """

    tensors: dict[str, np.ndarray]
    sha256: str
    missing: list[str]
    misfits: dict[str, tuple[Shape, Shape]]
    unused: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """What the genesis record says of it: the file, how many tensors were taken, and of how many."""
        return {"sha256": self.sha256, "tensors": len(self.tensors), "of": self._of}

    @property
    def _of(self) -> int:
        return len(self.tensors) + len(self.missing) + len(self.misfits)

    def told(self, name: str) -> str:
        """One line on what was taken and what was not."""
        parts = [f"{len(self.tensors)} of {self._of} tensors come from {name}"]
        if random := [*self.missing, *self.misfits]:
            parts.append(f"{_listed(random, ' and ')} keep{'s' if len(random) == 1 else ''} random weights")
        if self.misfits:
            parts.append(f"another shape: {_listed(_misfit(*one) for one in self.misfits.items())}")
        if self.unused:
            parts.append(f"not used: {_listed(self.unused)}")
        return "; ".join(parts)


def read_given(path: Path, expected: Mapping[str, Shape], layers: Sequence[Layer] = ()) -> Given:
    """Take what fits out of a file.

    Args:
        path: A model file, an .npz file, or one that Keras wrote.
        expected: The architecture's tensors, shape by variable path.
        layers: Its layers with weights; for a file of Keras.

    Raises:
        SettingsError: Nothing fits, a value is not finite, or this is no such file; the message says which.
    """
    if not path.is_file():
        raise SettingsError(f"--weights: {path} is no file")
    if path.suffix == keras_files.SUFFIX:
        return _of_keras(path, expected, layers)
    readers = {".safetensors": (_header, _read_model), ".npz": (_npz_header, _read_npz)}
    if path.suffix not in readers:
        endings = ".safetensors, .npz or .h5"
        raise SettingsError(f"--weights: {path} must end in {endings}", "a .keras file is never read")
    shapes, read = readers[path.suffix]
    found = shapes(path)
    names = _names(path, found, expected)
    chosen = {one: names[one] for one in expected if one in names}
    fits = {one: name for one, name in chosen.items() if found[name] == tuple(expected[one])}
    misfits = {one: (found[name], tuple(expected[one])) for one, name in chosen.items() if one not in fits}
    if not fits:
        of = f"{len(expected)} tensors of the architecture"
        why = f"; {_listed(_misfit(*one) for one in misfits.items())}" if misfits else ""
        raise SettingsError(f"--weights: {path} fits none of the {of}, it has {_listed(found)}{why}")
    return Given(
        tensors={one: _finite(path, one, array) for one, array in read(path, fits).items()},
        sha256=sha256_file(path),
        missing=[one for one in expected if one not in chosen],
        misfits=misfits,
        unused=[one for one in names if one not in expected],
    )


def _of_keras(path: Path, expected: Mapping[str, Shape], layers: Sequence[Layer]) -> Given:
    fits, unused = keras_files.matched(path, layers, expected, MAX_BYTES)
    return Given(
        tensors={one: _finite(path, one, array) for one, array in keras_files.read(path, fits).items()},
        sha256=sha256_file(path),
        missing=[one for one in expected if one not in fits],
        misfits={},
        unused=unused,
    )


def _names(path: Path, found: Iterable[str], expected: Mapping[str, Shape]) -> dict[str, str]:
    """Variable path -> name in the file, in the file's order."""
    names: dict[str, str] = {}
    for name in found:
        layer, _, variable = name.replace(":", "/").rpartition("/")
        plain, joined = f"{layer}/{variable}".lstrip("/"), f"{layer.replace('/', '_')}/{variable}"
        one = joined if joined in expected else plain
        if one in names:
            raise SettingsError(f"--weights: {path} has the tensor {_shown(one)} twice")
        names[one] = name
    return names


def _header(path: Path) -> dict[str, Shape]:
    try:
        return weights.read_header(path).tensors
    except WeightsError as error:
        raise SettingsError(f"--weights: {path}: {error}") from None


def _read_model(path: Path, fits: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        tensors = weights.read_weights(path, _header(path))
    except WeightsError as error:
        raise SettingsError(f"--weights: {path}: {error}") from None
    return {one: tensors[name] for one, name in fits.items()}


def _npz_header(path: Path) -> dict[str, Shape]:
    """Shape by name. Only the first bytes of each member are unpacked; what they claim is checked against its size."""
    try:
        found = arrays.headers(path, MAX_BYTES)
    except arrays.ArraysError as error:
        raise SettingsError(f"--weights: {error}") from None
    for name, (_, dtype) in found.items():
        if dtype.kind != "f":
            what = "holds Python objects, which are never read" if dtype.hasobject else f"is {dtype}"
            raise SettingsError(f"--weights: {path}: {_shown(name)} {what}; expected floating-point numbers")
    return {name: shape for name, (shape, _) in found.items()}


def _read_npz(path: Path, fits: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        found = arrays.read(path, fits.values())
    except arrays.ArraysError as error:
        raise SettingsError(f"--weights: {error}") from None
    return {one: found[name] for one, name in fits.items()}


def _finite(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.float32)
    bad = converted.size - int(np.count_nonzero(np.isfinite(converted)))
    if bad:
        raise SettingsError(f"--weights: {path}: {bad:,} of {converted.size:,} values of {name} are not finite")
    return converted


def _misfit(name: str, shapes: tuple[Shape, Shape]) -> str:
    found, fitting = ("x".join(map(str, shape)) or "a number" for shape in shapes)
    return f"{name} is {found}, expected {fitting}"


def _listed(names: Iterable[str], last: str = ", ") -> str:
    shown = [_shown(name) for name in names]
    if len(shown) > SHOWN:
        return f"{', '.join(shown[:SHOWN])} and {len(shown) - SHOWN} more"
    return last.join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def _shown(name: str) -> str:
    """A name of unknown origin without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])

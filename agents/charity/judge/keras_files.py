"""Weights in the HDF5 files that Keras writes and its networks are published in: `.weights.h5` and `.h5`. No Keras.

    /layers/conv2d_3/vars/0           Keras 3: a group for each layer, counted by kind; its attribute `name` is its own
    /Conv1/Conv1/kernel:0             before: layers by name; attributes `layer_names` and `weight_names` order them
    /model_weights/…                  the same in a file with a whole model, of which nothing else is read

A layer's weights are found where Keras' own `load_weights` looks, by their place, and else by the layers' names; either
finds all of them, or the first difference is named. What a file has beyond, such as its own top, is not used. Only
plain arrays in the file itself are read: no link to another file, no object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.errors import SettingsError
from fedssh.models.layout import Layer

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".h5"
MOST_LAYERS = 10_000
MOST_DEEP = 8  # networks in networks
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A layer of a file.

    Attributes:
        name: Its own, as it was called.
        path: Of its group.
        tensors: The paths of its arrays, in order.
    """

    name: str
    path: str
    tensors: tuple[str, ...]


def headers(path: Path, max_bytes: int) -> tuple[list[Stored], dict[str, Shape], bool]:
    """What a file holds, without reading its arrays.

    Args:
        max_bytes: The most that its arrays may take in memory.

    Returns:
        Its layers; the shapes of their arrays by path; and whether the order of the layers means something.

    Raises:
        SettingsError: This is no such file.
    """
    with _opened(path) as file:
        root = _root(file)
        ordered = "layer_names" in root.attrs or "layer_names0" in root.attrs
        if not ordered and "layers" not in root:
            raise SettingsError(f"--weights: {path} is no file of weights that Keras wrote")
        try:
            layers = list(_named(root) if ordered else _counted(_inside(root, "layers"), "layers"))
            shapes = {one: _shape(root, one) for layer in layers for one in layer.tensors}
        except _NotPlainError as error:
            raise SettingsError(f"--weights: {path}: {error}") from None
    size = sum(4 * _count(shape) for shape in shapes.values())
    if size > max_bytes or len(layers) > MOST_LAYERS:
        raise SettingsError(f"--weights: {path} holds {size:,} bytes of weights, expected at most {max_bytes:,}")
    return layers, shapes, ordered


def read(path: Path, fits: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Arrays by variable path, of those at these places."""
    import numpy as np

    with _opened(path) as file:
        root = _root(file)
        return {one: np.asarray(_inside(root, name)) for one, name in fits.items()}


def matched(
    path: Path, layers: Sequence[Layer], expected: Mapping[str, Shape], max_bytes: int
) -> tuple[dict[str, str], list[str]]:
    """Which array of a file each tensor of a network is.

    Args:
        layers: The network's; of those of its output, nothing has to be there.
        expected: The network's tensors, shape by variable path.

    Returns:
        Place in the file by variable path, for all of these layers; and the places of what is left over.

    Raises:
        SettingsError: The file does not fit; names the first difference.
    """
    stored, shapes, ordered = headers(path, max_bytes)
    wanted = [layer for layer in layers if layer.name != "output"]
    places = {layer.path: layer for layer in stored}
    names = {layer.name: layer for layer in stored}
    by_place = _in_order(wanted, stored) if ordered else [(layer, places.get(layer.path)) for layer in wanted]
    by_name = [(layer, names.get(layer.name)) for layer in wanted]
    exact = not ordered or sum(len(layer.tensors) for layer in wanted) == len(shapes)
    first = None
    for pairs in (by_place, by_name) if exact else (by_name, by_place):
        found, difference = _paired(pairs, expected, shapes)
        if difference is None:
            found |= _output(layers, names.get("output"), expected, shapes)
            return found, sorted(shapes.keys() - found.values())
        first = first or difference
    raise SettingsError(f"--weights: {path} does not fit the network: {first}", "it must be of that very network")


def _in_order(wanted: Sequence[Layer], stored: Sequence[Stored]) -> list[tuple[Layer, Stored | None]]:
    """Layer by layer; a network inside is one layer of a file, so what counts is the order of the arrays."""
    flat = [one for layer in stored for one in layer.tensors]
    pairs: list[tuple[Layer, Stored | None]] = []
    for layer in wanted:
        taken, flat = flat[: len(layer.tensors)], flat[len(layer.tensors) :]
        pairs.append((layer, Stored(taken[0] if taken else "", "", tuple(taken)) if taken else None))
    return pairs


def _paired(
    pairs: Sequence[tuple[Layer, Stored | None]], expected: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> tuple[dict[str, str], str | None]:
    """The tensors of pairs of layers, and the first difference between them."""
    found: dict[str, str] = {}
    for number, (layer, there) in enumerate(pairs, 1):
        which = f"layer {number} of {len(pairs)}, {layer.name},"
        if there is None:
            return found, f"{which} is not in it"
        if len(there.tensors) != len(layer.tensors):
            return found, f"{which} has {len(layer.tensors)} tensors, {there.name} in the file {len(there.tensors)}"
        for one, place in zip(layer.tensors, there.tensors, strict=True):
            if tuple(expected[one]) != shapes[place]:
                ours, theirs = (_said(shape) for shape in (expected[one], shapes[place]))
                return found, f"{which} needs {one} of {ours}, the file has {theirs} there ({place})"
            found[one] = place
    return found, None


def _output(
    layers: Sequence[Layer], there: Stored | None, expected: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> dict[str, str]:
    """The output layer's tensors, where the file has just those."""
    own = [layer for layer in layers if layer.name == "output"]
    if there is None or not own:
        return {}
    found, difference = _paired([(own[0], there)], expected, shapes)
    return found if difference is None else {}


def _named(root: Any) -> Iterator[Stored]:
    """The layers of a file from before Keras 3, in their order."""
    for name in _texts(root.attrs, "layer_names"):
        group = _inside(root, name)
        tensors = tuple(f"{name}/{one}" for one in _texts(group.attrs, "weight_names"))
        if tensors:
            yield Stored(name, name, tensors)


def _texts(attributes: Any, name: str) -> list[str]:
    """A list of texts; one too long for an attribute stands in several, `name0`, `name1` and so on."""
    parts = [name] if name in attributes else []
    while not parts or parts[-1] != name:
        following = f"{name}{len(parts)}"
        if following not in attributes:
            break
        parts.append(following)
    return [one.decode() if isinstance(one, bytes) else str(one) for part in parts for one in attributes[part]]


def _counted(group: Any, where: str) -> Iterator[Stored]:
    """The layers of a file of Keras 3, and those in them; the states of random numbers are none."""
    import h5py

    if where.count("/") > 2 * MOST_DEEP:
        raise _NotPlainError(f"{where} is deeper than any network")
    for key in group:
        inner = _inside(group, key)
        if not isinstance(inner, h5py.Group) or key == "seed_generator":
            continue
        place = f"{where}/{key}"
        arrays = _inside(inner, "vars") if "vars" in inner else None
        if isinstance(arrays, h5py.Group) and len(arrays):
            name = arrays.attrs.get("name", inner.attrs.get("name", key))
            tensors = tuple(f"{place}/vars/{one}" for one in sorted(arrays, key=lambda one: (len(one), one)))
            yield Stored(str(name), place, tensors)
        if key != "vars":
            yield from _counted(inner, place)


class _NotPlainError(Exception):
    """Something in a file is not read."""


def _root(file: Any) -> Any:
    return _inside(file, "model_weights") if "model_weights" in file else file


def _inside(group: Any, name: str) -> Any:
    """What has a path in a group, without following a link anywhere else."""
    import h5py

    for part in name.split("/"):
        link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
        if not isinstance(link, h5py.HardLink):
            raise _NotPlainError(f"{name} is not in it")
        group = group[part]
    return group


def _shape(root: Any, name: str) -> Shape:
    import h5py

    found = _inside(root, name)
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual or found.dtype.kind not in "fiu":
        raise _NotPlainError(f"{name} is no plain array of numbers")
    return tuple(int(size) for size in found.shape)


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _said(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"


def _opened(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError:
        raise SettingsError(f"--weights: {path} is no HDF5 file") from None

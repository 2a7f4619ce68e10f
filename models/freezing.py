"""Layers whose weights stay as they are: `frozen` of a spec, which stands there only where something is frozen.

    all                       every layer but the output
    before LAYER              the layers before this one, in the network's order
    Conv1,block_?_*           layers by name; `*` is any letters, `?` one

What is frozen is no variable of any optimizer, a site's or a server's, and batch normalisation that is frozen works by
its moving statistics as they are, in training, too. The weights are part of every model file all the same.
"""

from __future__ import annotations

import difflib
import fnmatch
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

ALL = "all"
BEFORE = "before "
MOST_LETTERS = 1000


def check(value: Any) -> str:
    """What a spec may say, as far as that shows without the network.

    Raises:
        ValueError: It may not say this.
    """
    expected = "such as all, 'before LAYER', or names of layers with commas between"
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MOST_LETTERS:
        raise ValueError(f"frozen must be a text, {expected}, found {value!r}")
    if value.startswith(BEFORE):
        return BEFORE + value.removeprefix(BEFORE).strip()
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise ValueError(f"frozen must be {expected}, found {value!r}")
    return ",".join(parts)


def freeze(network: keras.Model, frozen: str) -> None:
    """Freeze layers of a network; its last one, the output, is always trained.

    Raises:
        ValueError: There are no such layers.
    """
    layers = [layer for layer in network.layers[:-1] if layer.weights]
    for layer in _chosen(layers, [layer.name for layer in network.layers[:-1]], network, frozen):
        layer.trainable = False


def _chosen(layers: list[Any], names: list[str], network: keras.Model, frozen: str) -> list[Any]:
    if frozen == ALL:
        return layers
    if frozen.startswith(BEFORE):
        first = frozen.removeprefix(BEFORE)
        if first not in names:
            raise ValueError(f"{network.name} has no layer {first!r} to train from{_near(first, names)}")
        earlier = set(names[: names.index(first)])
        return [layer for layer in layers if layer.name in earlier]
    found: dict[str, Any] = {}
    for pattern in frozen.split(","):
        matching = {layer.name: layer for layer in layers if fnmatch.fnmatchcase(layer.name, pattern)}
        if not matching:
            known = [layer.name for layer in layers]
            raise ValueError(f"{network.name} has no layer with weights called {pattern!r}{_near(pattern, known)}")
        found |= matching
    return list(found.values())


def _near(word: str, names: list[str]) -> str:
    near = difflib.get_close_matches(word, names, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"; it has {', '.join(names[:12])}{more}"

"""Where a network can be cut in two: after a layer that everything on its way from the input to the output passes.

Gupta and Raskar 2018, section 3: the first layers of one network are in one room, the rest in another.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Cut:
    """A place where a network can be cut.

    Attributes:
        layer: The name of the last layer before it.
        shape: Of what passes there, of one example.
    """

    layer: str
    shape: tuple[int, ...]

    @property
    def floats(self) -> int:
        """How many numbers pass there of one example."""
        return math.prod(self.shape)


def cuts(network: keras.Model) -> list[Cut]:
    """Every place where a network can be cut, from the input to the output.

    There are weights on either side: before the first of them there would only be the images themselves.
    """
    # Keras has no public way to ask how layers are connected; by depth, each comes after all that it needs.
    depths = sorted(network._nodes_by_depth.items(), reverse=True)
    nodes = [node for _, at in depths for node in at]
    places = {id(tensor): number for number, node in enumerate(nodes) for tensor in node.output_tensors}
    weighted = [number for number, node in enumerate(nodes) if getattr(node.operation, "weights", ())]
    earliest = [len(nodes)] * (len(nodes) + 1)  # what a node or one after it needs, or shares weights with
    passes = Counter(id(node.operation) for node in nodes)
    firsts = {id(node.operation): number for number, node in reversed(list(enumerate(nodes)))}
    for number, node in reversed(list(enumerate(nodes))):
        needed = [places[id(tensor)] for tensor in node.input_tensors]
        shared = firsts[id(node.operation)]
        earliest[number] = min([earliest[number + 1], *needed, *([shared] if shared < number else [])])
    found: list[Cut] = []
    for number, node in enumerate(nodes):
        between = bool(weighted) and weighted[0] <= number < weighted[-1]
        named = node.operation in network.layers and len(node.output_tensors) == 1
        if between and named and passes[id(node.operation)] == 1 and earliest[number + 1] >= number:
            shape = node.output_tensors[0].shape[1:]
            found.append(Cut(node.operation.name, tuple(int(size) for size in shape)))
    return found


def find(network: keras.Model, layer: str) -> Cut:
    """The cut after a layer.

    Raises:
        ValueError: There is none; names those that there are.
    """
    every = cuts(network)
    for one in every:
        if one.layer == layer:
            return one
    if not every:
        raise ValueError(f"{network.name} cannot be cut: everything that it has to learn is in one layer")
    names = [one.layer for one in every]
    near = difflib.get_close_matches(layer, names, 1)
    known = any(layer == one.name for one in network.layers)
    why = f"{network.name} cannot be cut after {layer}" if known else f"{network.name} has no layer {layer!r}"
    guess = f"did you mean {near[0]!r}? " if near and not known else ""
    raise ValueError(f"{why}; {guess}it can be cut after {', '.join(names)}")


def parts(network: keras.Model, after: Sequence[str]) -> list[keras.Model]:
    """The pieces of a network, which share its layers and weights.

    Args:
        after: Names of layers, in the network's order.

    Raises:
        ValueError: It cannot be cut there, or they are not in order.
    """
    from fedssh.models.backend import load_keras

    keras = load_keras()
    order = [one.layer for one in cuts(network)]
    for layer in after:
        find(network, layer)
    places = [order.index(layer) for layer in after]
    if places != sorted(set(places)):
        raise ValueError(f"the cuts of {network.name} are not in its order: {', '.join(after)}")
    ends = [network.inputs[0], *(network.get_layer(layer).output for layer in after), network.outputs[0]]
    return [
        keras.Model(start, end, name=f"{network.name}_part{number}")
        for number, (start, end) in enumerate(itertools.pairwise(ends), 1)
    ]

"""What a network costs where it is cut: weights, multiply-adds and the numbers that pass, before it and after it.

A multiply-add is a product that is added to a sum, of one example, forward. Counted are those of matrix products and
convolutions, which are nearly all that there are: `Dense`, `EinsumDense`, convolutions plain, grouped, depthwise,
separable and transposed. Zeros of a padding count as numbers, as everybody counts them. Not counted are biases, batch
normalisation and other normalisations, pooling, activations, sums of branches, and scaling: a few for each number that
a layer gives. What of a layer cannot be counted is an error, never a nought.

    dense                 numbers out x numbers in
    convolution           places out x size of the kernel, which has channels in / groups
    depthwise convolution the same; its kernel has one channel in for each channel out
    transposed            places in x size of the kernel

Nothing of the weights is made, so a network of any size can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedssh.models import stateless
from fedssh.models.cut import cuts, find

if TYPE_CHECKING:
    import keras

# Layers and operations without weights that multiply what they are given with each other.
_PRODUCTS = ("AdditiveAttention", "Attention", "Dot", "Einsum", "Inner", "Matmul", "Outer", "Tensordot", "Vdot")
# Layers that may have weights of several dimensions, and only scale, shift or look up.
_NUMBER_BY_NUMBER = ("BatchNormalization", "Embedding", "LayerNormalization", "Normalization", "PReLU")


LIGHT = 3 / 8  # a part computes forward twice, and backward as much again: half of what the whole takes


class NoCut(ValueError):
    """A network cannot be cut where it was asked for; the message lists where it can."""


@dataclass(frozen=True)
class Share:
    """A part of a network, or the whole.

    Attributes:
        weights: Numbers in a model file, statistics and what is frozen among them.
        trained: Those that an optimizer changes.
        multiply_adds: Of one example, forward.
        learning: Those of them that a gradient passes: from the first layer of the network on that is trained.
    """

    weights: int
    trained: int
    multiply_adds: int
    learning: int


@dataclass(frozen=True)
class Cost:
    """What a cut costs.

    Attributes:
        layer: The last before it.
        floats: How many numbers pass there of one example.
        before: What is before it.
        after: The rest.
    """

    layer: str
    floats: int
    before: Share
    after: Share


def costs(network: keras.Model) -> list[Cost]:
    """What each place costs where a network can be cut, from the input to the output.

    Raises:
        ValueError: A layer's multiply-adds cannot be counted.
    """
    nodes = _nodes(network)
    each = _each(nodes)
    ends = {node.operation.name: number + 1 for number, node in enumerate(nodes)}
    return [
        Cost(cut.layer, cut.floats, _sum(each[: ends[cut.layer]]), _sum(each[ends[cut.layer] :]))
        for cut in cuts(network)
    ]


def whole(network: keras.Model) -> Share:
    """What a network costs in one piece.

    Raises:
        ValueError: A layer's multiply-adds cannot be counted.
    """
    return _sum(_each(_nodes(network)))


def usual(network: keras.Model) -> str:
    """The layer to cut after where nobody says: it passes the fewest numbers, and a site computes much less.

    Of the cuts before which there is at most `LIGHT` of what there is to multiply; where none is, or that cannot be
    counted, the first.

    Raises:
        ValueError: There is no cut.
    """
    every = cuts(network)
    if not every:
        find(network, "")
    try:
        most = LIGHT * whole(network).multiply_adds
        light = [cost for cost in costs(network) if cost.before.multiply_adds <= most]
    except ValueError:
        light = []
    return min(light, key=lambda cost: cost.floats).layer if light else every[0].layer


def of_spec(spec: Mapping[str, Any], after: Sequence[str] = ()) -> tuple[Share, list[Cost]]:
    """What the network of a spec costs in one piece and at each cut; takes next to no memory, see `stateless`.

    Args:
        after: Names of layers after which it must be possible to cut it.

    Raises:
        NoCut: It is not, see `cut.find`.
        ValueError: As `check_spec` and `costs`.
    """
    from fedssh.models import build

    with stateless():
        network = build(spec)
        try:
            for layer in after:
                find(network, layer)
        except ValueError as error:
            raise NoCut(str(error)) from None
        return whole(network), costs(network)


def multiply_adds(network: keras.Model) -> dict[str, int]:
    """Those of each layer by its name, of one example, forward.

    Raises:
        ValueError: A layer's cannot be counted.
    """
    found: dict[str, int] = {}
    for node in _nodes(network):
        name = node.operation.name
        found[name] = found.get(name, 0) + _of_node(node)
    return found


def _nodes(network: keras.Model) -> list[Any]:
    """Every layer where it is passed, each after all that it needs, as in `cut`."""
    return [node for _, at in sorted(network._nodes_by_depth.items(), reverse=True) for node in at]


def _each(nodes: list[Any]) -> list[Share]:
    """What each of them costs; weights count where a layer is passed first."""
    found: list[Share] = []
    seen: set[int] = set()
    learns = False
    for node in nodes:
        operation, first = node.operation, id(node.operation) not in seen
        seen.add(id(operation))
        trained = _numbers(getattr(operation, "trainable_weights", ()))
        learns = learns or trained > 0
        products = _of_node(node)
        weights = _numbers(getattr(operation, "weights", ())) if first else 0
        found.append(Share(weights, trained if first else 0, products, products if learns else 0))
    return found


def _sum(shares: Iterable[Share]) -> Share:
    every = list(shares)
    return Share(
        sum(one.weights for one in every), sum(one.trained for one in every),
        sum(one.multiply_adds for one in every), sum(one.learning for one in every),
    )  # fmt: skip


def _numbers(variables: Iterable[Any]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _of_node(node: Any) -> int:
    """The multiply-adds of a layer where it is passed."""
    layer = node.operation
    if inner := getattr(layer, "_functional", layer if hasattr(layer, "_nodes_by_depth") else None):
        return sum(_of_node(one) for one in _nodes(inner))  # a network among the layers
    if not node.input_tensors:
        return 0
    kinds = {kind.__name__ for kind in type(layer).__mro__}
    given, gives = _places(node.input_tensors[0]), _places(node.output_tensors[0])
    if "Dense" in kinds:
        return gives * int(layer.kernel.shape[0])
    if "EinsumDense" in kinds:
        _, kernel, out = layer.equation.replace("->", ",").split(",")
        sizes = zip(kernel.strip(), layer.kernel.shape, strict=True)
        return gives * math.prod(int(size) for letter, size in sizes if letter not in out)
    if "BaseSeparableConv" in kinds:
        depthwise, pointwise = _numbers([layer.depthwise_kernel]), _numbers([layer.pointwise_kernel])
        return gives // int(layer.pointwise_kernel.shape[-1]) * (depthwise + pointwise)
    if "BaseDepthwiseConv" in kinds:  # maps come out by maps that went in, and how many of each
        return gives // math.prod(map(int, layer.kernel.shape[-2:])) * _numbers([layer.kernel])
    if "BaseConvTranspose" in kinds:
        return given // int(layer.kernel.shape[-1]) * _numbers([layer.kernel])
    if "BaseConv" in kinds:
        return gives // int(layer.kernel.shape[-1]) * _numbers([layer.kernel])
    matrices = any(len(variable.shape) > 1 for variable in getattr(layer, "weights", ()))
    if kinds.intersection(_PRODUCTS) or (matrices and not kinds.intersection(_NUMBER_BY_NUMBER)):
        raise ValueError(f"the multiply-adds of {layer.name} cannot be counted: it is a {type(layer).__name__}")
    return 0


def _places(tensor: Any) -> int:
    """How many numbers of one example a tensor has."""
    if None in tensor.shape[1:]:
        raise ValueError(f"{tensor.name} has no fixed size: its multiply-adds cannot be counted")
    return math.prod(int(size) for size in tensor.shape[1:])

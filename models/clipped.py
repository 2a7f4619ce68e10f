"""The sum of clipped gradients of many examples from one pass backwards, for networks of dense layers and convolutions.

The gradient of one example by a layer's weights is a product of what went into the layer, and of the loss's gradient by
what came out, before the activation. One pass backwards gives the latter of all examples at once, since no example has
any part in another's loss; from both follow each example's length and then the sum, each scaled by its own factor:

    dense         length^2 = (|in|^2 + 1) |out|^2, and the gradient itself is never made (Goodfellow 2015)
    convolution   the gradient is made, as one product for each place of the kernel; or where it has more numbers than
                  there are pairs of places in what comes out, from these pairs (Bu et al. 2022, section 4)
    the sum       from the same in and out, without a second pass (Bu et al. 2023, "book-keeping")

`pieces` says for which networks: each layer of one of the kinds in `APART`, which compute every example by itself, and
those with weights dense or plain convolutions, used once. Whatever else there is, whoever trains takes one after the
other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from fedssh.models.backend import load_keras
from fedssh.models.objective import Objective

APART = (
    "InputLayer", "Dense", "Conv2D", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D",
    "GlobalMaxPooling2D", "Flatten", "Dropout", "Activation", "ReLU", "Rescaling", "ZeroPadding2D",
    "Concatenate", "Add",
)  # fmt: skip
ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softmax", "elu", "gelu", "silu", "softplus")
PIECE_BYTES = 2**25  # that much memory may a piece of a batch take, beside the weights' sums
MOST = 64  # examples in a piece; more are no quicker


@dataclass(frozen=True)
class Used:
    """A layer with weights, where it was used.

    Attributes:
        inputs: [n, …], what went in.
        before: [n, …], what came out, before the activation.
    """

    layer: Any
    inputs: Any
    before: Any


def pieces(network: Any, objective: Objective, inputs: Sequence[int]) -> int:
    """How many examples at a time `clipped_sums` takes; 0 where it cannot take this network.

    Args:
        inputs: The shape of an example.
    """
    import tensorflow

    operations = getattr(network, "operations", None)
    if operations is None or not all(map(_apart, operations)):
        return 0
    two = tensorflow.zeros((2, *inputs))
    with listening(network) as used:
        outputs = network(two, training=True)
    labels = tensorflow.zeros((2, *objective.kind.shape), objective.kind.labels)
    if network.losses or objective.each(labels, outputs).shape != (2,):
        return 0
    learned = [id(one) for each in used for one in each.layer.trainable_variables]
    if any(each.layer.trainable_variables[0] is not each.layer.kernel for each in used):  # low-rank parts beside it
        return 0
    if sorted(learned) != sorted(map(id, network.trainable_variables)):  # a layer that is used twice is here twice
        return 0
    return max(1, min(MOST, PIECE_BYTES // (4 * sum(map(_numbers, used)))))


def clipped_sums(
    network: Any, objective: Objective, clip: float, images: Any, labels: Any
) -> tuple[list[Any], Any, Any]:
    """The sum of the examples' gradients, each scaled down to `clip` where it is longer, in a graph.

    What is not finite counts as nothing.

    Args:
        images, labels: Of a piece, one example or more.

    Returns:
        Of each weight that is trained the sum; the sum of the losses; how many are right, as `Objective.right`.
    """
    import tensorflow

    with tensorflow.GradientTape() as tape, listening(network, tape) as used:
        outputs = network(images, training=True)
        losses = objective.each(labels, outputs)
    after = tape.gradient(losses, [one.before for one in used], unconnected_gradients="zero")
    parts = [_way(one)(one, gradient) for one, gradient in zip(used, after, strict=True)]
    length = tensorflow.sqrt(tensorflow.add_n([part.squares() for part in parts]))
    finite = tensorflow.math.is_finite(length)
    scale = tensorflow.where(finite, clip / tensorflow.maximum(length, clip), 0.0)
    sums: dict[int, Any] = {}
    for part, one in zip(parts, used, strict=True):
        for variable, total in zip(one.layer.trainable_variables, part.sums(scale, finite), strict=True):
            sums[id(variable)] = tensorflow.reshape(total, variable.shape)
    return (
        [sums[id(one)] for one in network.trainable_variables],
        tensorflow.reduce_sum(losses),
        objective.right(labels, outputs),
    )


class _Dense:
    """A dense layer's part: the gradient of an example is the outer product of what went in and came out."""

    def __init__(self, used: Used, after: Any) -> None:
        self._inputs, self._after, self._biased = used.inputs, after, used.layer.use_bias

    def squares(self) -> Any:
        """The squared length of each example's gradient: [n]."""
        import tensorflow

        into, out = (tensorflow.reduce_sum(one * one, axis=1) for one in (self._inputs, self._after))
        return (into + 1.0 if self._biased else into) * out

    def sums(self, scale: Any, finite: Any) -> list[Any]:
        """By kernel and bias."""
        import tensorflow

        out = tensorflow.math.multiply_no_nan(self._after, scale[:, None])
        into = tensorflow.where(finite[:, None], self._inputs, 0.0)
        kernel = tensorflow.matmul(into, out, transpose_a=True)
        return [kernel, tensorflow.reduce_sum(out, axis=0)] if self._biased else [kernel]


class _Convolution:
    """A convolution's part, where an example's gradient is shorter than all pairs of its places.

    For each place of the kernel it is the product of the inputs that it met and what came out.
    """

    def __init__(self, used: Used, after: Any) -> None:
        import tensorflow

        layer = used.layer
        (rows, columns), (down, right) = layer.kernel_size, layer.strides
        height, width, filters = after.shape[1:]
        inputs = _padded(used)
        out = tensorflow.reshape(after, [-1, height * width, filters])
        met = [
            inputs[:, row : row + (height - 1) * down + 1 : down, column : column + (width - 1) * right + 1 : right]
            for row in range(rows)
            for column in range(columns)
        ]
        by_place = [
            tensorflow.matmul(tensorflow.reshape(one, [-1, height * width, one.shape[-1]]), out, transpose_a=True)
            for one in met
        ]
        kernel = tensorflow.concat(by_place, axis=1)  # [n, rows * columns * channels, filters]
        kernel = tensorflow.reshape(kernel, [-1, kernel.shape[1] * filters])
        self._each = [kernel, tensorflow.reduce_sum(out, axis=1)] if layer.use_bias else [kernel]

    def squares(self) -> Any:
        """The squared length of each example's gradient: [n]."""
        import tensorflow

        return tensorflow.add_n([tensorflow.reduce_sum(one * one, axis=1) for one in self._each])

    def sums(self, scale: Any, finite: Any) -> list[Any]:
        """By kernel, as one row, and bias."""
        import tensorflow

        kept = [tensorflow.where(finite[:, None], one, 0.0) for one in self._each]
        return [tensorflow.linalg.matvec(one, scale, transpose_a=True) for one in kept]


class _WideConvolution:
    """A convolution's part, where an example has fewer pairs of places than its gradient has numbers.

    With the inputs that the kernel meets at place t as U_t, the squared length is the sum of (U_t U_s) (out_t out_s)
    over all pairs of places.
    """

    def __init__(self, used: Used, after: Any) -> None:
        self._used, self._after = used, after

    def squares(self) -> Any:
        """The squared length of each example's gradient: [n]."""
        import tensorflow

        layer, after = self._used.layer, self._after
        places = after.shape[1] * after.shape[2]
        sizes, steps = [1, *layer.kernel_size, 1], [1, *layer.strides, 1]
        met = tensorflow.image.extract_patches(_padded(self._used), sizes, steps, [1, 1, 1, 1], "VALID")
        met, out = (tensorflow.reshape(one, [-1, places, one.shape[-1]]) for one in (met, after))
        pairs = [tensorflow.matmul(one, one, transpose_b=True) for one in (met, out)]
        if layer.use_bias:
            pairs[0] += 1.0
        return tensorflow.reduce_sum(pairs[0] * pairs[1], axis=[1, 2])

    def sums(self, scale: Any, finite: Any) -> list[Any]:
        """By kernel and bias."""
        import tensorflow

        layer = self._used.layer
        into = tensorflow.where(finite[:, None, None, None], self._used.inputs, 0.0)
        out = tensorflow.math.multiply_no_nan(self._after, scale[:, None, None, None])
        shape, steps = tuple(layer.kernel.shape), [1, *layer.strides, 1]
        kernel = tensorflow.raw_ops.Conv2DBackpropFilter(
            input=into, filter_sizes=shape, out_backprop=out, strides=steps, padding=layer.padding.upper()
        )
        return [kernel, tensorflow.reduce_sum(out, axis=[0, 1, 2])] if layer.use_bias else [kernel]


def _padded(used: Used) -> Any:
    """What goes into a convolution, with the zeros that it adds at the edges."""
    import tensorflow

    layer = used.layer
    if layer.padding == "valid":
        return used.inputs
    there = used.before.shape[1:3], layer.strides, layer.kernel_size, used.inputs.shape[1:3]
    lacking = [max((count - 1) * step + size - given, 0) for count, step, size, given in zip(*there, strict=True)]
    return tensorflow.pad(used.inputs, [[0, 0], *([one // 2, one - one // 2] for one in lacking), [0, 0]])


def _way(used: Used) -> type[_Dense | _Convolution | _WideConvolution]:
    """How the part of a layer is had with the least."""
    if isinstance(used.layer, load_keras().layers.Dense):
        return _Dense
    return _WideConvolution if 2 * _places(used) ** 2 < prod(used.layer.kernel.shape) else _Convolution


def _places(used: Used) -> int:
    rows, columns = used.before.shape[1:3]
    return int(rows * columns)


@contextmanager
def listening(network: Any, tape: Any = None) -> Iterator[list[Used]]:
    """While it lasts, each use of a layer that is trained is noted, and what it gives before its activation watched."""
    used: list[Used] = []

    def heard(layer: Any) -> Any:
        def call(inputs: Any, **more: Any) -> Any:
            activation, layer.activation = layer.activation, None
            try:
                before = type(layer).call(layer, inputs, **more)
            finally:
                layer.activation = activation
            if tape is not None:
                tape.watch(before)
            used.append(Used(layer, inputs, before))
            return activation(before)

        return call

    trained = [layer for layer in network.layers if layer.trainable_variables]
    for layer in trained:
        layer.call = heard(layer)
    try:
        yield used
    finally:
        for layer in trained:
            del layer.call


def _apart(operation: Any) -> bool:
    """Whether it computes each example by itself; and a layer with weights is one as `clipped_sums` takes it for."""
    keras = load_keras()
    if _mirrors_channels(operation):
        return True
    if type(operation) not in [getattr(keras.layers, name) for name in APART]:
        return False
    if getattr(operation, "activation", None) not in (None, *(getattr(keras.activations, one) for one in ACTIVATIONS)):
        return False
    if isinstance(operation, keras.layers.Concatenate):
        return operation.axis not in (0, -len(operation.output.shape))
    if isinstance(operation, keras.layers.Dense):
        return len(operation.output.shape) == 2
    if isinstance(operation, keras.layers.Conv2D):
        return (operation.groups, operation.dilation_rate, operation.data_format) == (1, (1, 1), "channels_last")
    return True


def _mirrors_channels(operation: Any) -> bool:
    """Whether it is `ops.flip(…, axis=-1)`, which has no public class."""
    kind = type(operation)
    return kind.__name__ == "Flip" and kind.__module__.startswith("keras.") and operation.axis == -1


def _numbers(used: Used) -> int:
    """How many numbers an example has in memory for a layer, about: in, out with their gradients, and its own."""
    way, kernel = _way(used), used.layer.kernel.shape
    own = 3 * prod(kernel) if way is _Convolution else 0
    if way is _WideConvolution:
        own = _places(used) * (prod(kernel[:3]) + 3 * _places(used))
    return int(2 * prod(used.inputs.shape[1:]) + 3 * prod(used.before.shape[1:]) + own)

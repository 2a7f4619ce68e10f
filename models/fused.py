"""Stochastic gradient descent whose step is one operation for each tensor, where its bits are those of Keras.

Keras' `SGD` multiplies, subtracts and assigns: four passes over a tensor for v = momentum * v - rate * g; w = w + v,
each into memory of its own. TensorFlow has both lines as one operation. The arithmetic is the same, but a compiler may
have merged a product and a sum into one rounding: so `same_bits` tries both on this machine before one is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedssh.models.backend import compiled, load_keras

TRIED = 4099  # weights: a prime, so that whole vectors of a processor and what is left over both occur
STEPS = 4


@functools.cache
def same_bits() -> bool:
    """Whether the step of `fused_sgd` is that of Keras on this machine, bit for bit, with momentum and without."""
    return all(_stepped(fused_sgd, config) == _stepped(_keras_sgd, config) for config in ({"momentum": 0.3}, {}))


def fused_sgd(config: Mapping[str, Any]) -> Any:
    """A Keras optimizer `SGD` of this configuration, without Nesterov's momentum."""
    return _fused_class()(**config)


def _keras_sgd(config: Mapping[str, Any]) -> Any:
    return load_keras().optimizers.SGD(**config)


@functools.cache
def _fused_class() -> Any:
    keras: Any = load_keras()
    import tensorflow

    class FusedSGD(keras.optimizers.SGD):  # type: ignore[misc]
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            if isinstance(gradient, tensorflow.IndexedSlices) or variable.dtype != "float32":
                super().update_step(gradient, variable, learning_rate)
                return
            rate, weights = tensorflow.cast(learning_rate, "float32"), _handle(variable)
            if not self.momentum:
                tensorflow.raw_ops.ResourceApplyGradientDescent(var=weights, alpha=rate, delta=gradient)
                return
            speed = _handle(self.momentums[self._get_variable_index(variable)])
            momentum = tensorflow.constant(self.momentum, "float32")
            tensorflow.raw_ops.ResourceApplyKerasMomentum(
                var=weights, accum=speed, lr=rate, grad=gradient, momentum=momentum
            )

    return FusedSGD


def _handle(variable: Any) -> Any:
    """What TensorFlow's operations know a variable by, be it Keras' or TensorFlow's own."""
    return variable.handle if hasattr(variable, "handle") else variable.value.handle


def _stepped(make: Any, config: Mapping[str, Any]) -> bytes:
    """Weights and optimizer after some steps on gradients of many sizes."""
    keras: Any = load_keras()
    random = np.random.default_rng(0)
    weights = keras.Variable(random.normal(size=TRIED).astype(np.float32))
    optimizer = make({"learning_rate": 0.07, **config})
    optimizer.build([weights])
    gradients = random.normal(size=(STEPS, TRIED)) * 10.0 ** random.uniform(-8, 2, (STEPS, TRIED))
    import tensorflow

    step = compiled(lambda gradient: optimizer.apply([gradient], [weights]), [tensorflow.TensorSpec([TRIED])])
    for gradient in gradients.astype(np.float32):
        step(tensorflow.constant(gradient))
    return b"".join(variable.numpy().tobytes() for variable in [weights, *optimizer.variables])

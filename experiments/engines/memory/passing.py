"""What passes a cut in memory: the numbers that would arrive in the other room, `fedssh.split.wire`, in a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedssh.models.together import Passed
from fedssh.split.wire import MOST, SCALE, Wire, decode, encode


def passing(wire: Wire) -> Passed | None:
    """What arrives of what is sent; None: all of it. Bit for bit what `decode` makes of what `encode` gives."""
    return {Wire.f32: None, Wire.f16: _half}.get(wire, lambda array, gradient: _coded(array, gradient, wire))


def _half(array: Any, gradient: bool) -> Any:
    import tensorflow

    scaled = array * SCALE if gradient else array
    sent = tensorflow.cast(tensorflow.clip_by_value(scaled, -MOST, MOST), "float16")
    arrived = tensorflow.cast(sent, "float32")
    return arrived / SCALE if gradient else arrived


def _coded(array: Any, gradient: bool, wire: Wire) -> Any:
    import tensorflow

    def there(sent: np.ndarray) -> np.ndarray:
        return decode(encode(sent, wire, gradient=gradient), wire, len(sent), sent.shape[1:], gradient=gradient)

    arrived = tensorflow.numpy_function(there, [array], tensorflow.float32)
    arrived.set_shape(array.shape)
    return arrived

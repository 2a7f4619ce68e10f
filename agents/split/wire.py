"""Numbers on their way through a cut: float32, half of that, or a quarter.

    f32    as they are
    f16    float16; a gradient is multiplied by `SCALE` before, since it is small, and cut off at what float16 holds
    int8   of each example a float32, the largest absolute value, and then each value in 127ths of it

float32 [n, *shape], little-endian and without gaps; of int8 all n scales come first.
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

SCALE = 1024.0
MOST = float(np.finfo(np.float16).max)
_STEPS = 127.0


class Wire(IntEnum):
    """How numbers go; the value stands in a frame's header."""

    f32 = 1
    f16 = 2
    int8 = 3


def size(wire: Wire, rows: int, shape: tuple[int, ...]) -> int:
    """How many bytes an array of so many examples has."""
    numbers = rows * math.prod(shape)
    return {Wire.f32: 4 * numbers, Wire.f16: 2 * numbers, Wire.int8: numbers + 4 * rows}[wire]


def encode(array: np.ndarray, wire: Wire, *, gradient: bool = False) -> bytes:
    """The bytes of float32 [n, *shape]."""
    if wire is Wire.f32:
        return np.ascontiguousarray(array, "<f4").tobytes()
    if wire is Wire.f16:
        scaled: np.ndarray = np.clip(array * SCALE if gradient else array, -MOST, MOST)
        return scaled.astype("<f2").tobytes()
    rows = array.reshape(len(array), -1)
    most: np.ndarray = np.abs(rows).max(axis=1, initial=0.0).astype("<f4")
    steps = np.divide(rows * _STEPS, most[:, None], out=np.zeros_like(rows), where=most[:, None] > 0)
    return b"".join((most.tobytes(), np.rint(steps).astype(np.int8).tobytes()))


def decode(
    data: bytes | bytearray | memoryview, wire: Wire, rows: int, shape: tuple[int, ...], *, gradient: bool = False
) -> np.ndarray:
    """float32 [rows, *shape] of bytes whose number is `size`."""
    if wire is Wire.f32:
        return np.frombuffer(data, "<f4").reshape(rows, *shape)
    if wire is Wire.f16:
        values = np.frombuffer(data, "<f2").astype(np.float32)
        return (values / np.float32(SCALE) if gradient else values).reshape(rows, *shape)
    most = np.frombuffer(data, "<f4", rows)
    steps = np.frombuffer(data, np.int8, offset=4 * rows).reshape(rows, -1).astype(np.float32)
    return (steps * (most[:, None] / np.float32(_STEPS))).reshape(rows, *shape)

"""Whether two sets of tensors have the same names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.errors import WeightsError


def match_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that two sets of tensors have the same names and shapes.

    Raises:
        WeightsError: Names the first difference.
    """
    if missing := sorted(expected.keys() - found.keys()):
        raise WeightsError(f"the tensor {missing[0]} is missing")
    if extra := sorted(found.keys() - expected.keys()):
        raise WeightsError(f"the tensor {extra[0][:80]!r} does not belong to the architecture")
    for name, shape in expected.items():
        if found[name] != tuple(shape):
            raise WeightsError(f"the tensor {name} has shape {list(found[name])}, expected {list(shape)}")

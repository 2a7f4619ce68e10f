"""How far apart two stored models are, tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedssh import weights


def distances(first: Path, second: Path) -> list[dict[str, Any]]:
    """Per tensor its shape, the Euclidean norm of the difference, and that relative to the first tensor's norm.

    Raises:
        WeightsError: The two are not of one architecture.
        FileNotFoundError: One of the two is not stored.
    """
    import numpy as np

    expected = weights.read_header(first).tensors
    before, after = weights.read_weights(first, expected), weights.read_weights(second, expected)
    rows = []
    for name, shape in expected.items():
        moved = float(np.linalg.norm((after[name].astype(np.float64) - before[name]).ravel()))
        length = float(np.linalg.norm(before[name].astype(np.float64).ravel()))
        rows.append(
            {"tensor": name, "shape": list(shape), "distance": moved, "relative": moved / length if length else None}
        )
    return rows

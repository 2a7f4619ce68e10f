"""Whether a network of one's own is the same on two machines: what is agreed of it, and how another one differs.

What is compared is what the network computes with, as far as that shows without running it: kind, name, activation and
output shape of each layer in their order, and path and shape of each weight. Two files of which only the words differ
are the same network; two that differ in what a layer does inside are not told apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

MOST_BYTES = 16_384  # of the lines that a record repeats; above it, only their hash


def describe(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a network: `sha256` of its lines and, if they are not too long, the `lines` themselves.

    Takes next to no memory however large the network is; networks built before are not to be built upon afterwards.

    Raises:
        ValueError: It cannot be built here.
    """
    from fedssh.models import build
    from fedssh.models.backend import load_keras

    keras = load_keras()
    try:
        with keras.StatelessScope(initialize_variables=False):
            lines = list(_lines(build(spec)))
    finally:
        keras.utils.clear_session(free_memory=False)
    text = json.dumps(lines, separators=(",", ":"))
    found: dict[str, Any] = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    return found | ({"lines": lines} if len(text) <= MOST_BYTES else {})


def difference(agreed: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """How a network differs from what was agreed, for people; None where it does not."""
    if here["sha256"] == agreed.get("sha256"):
        return None
    lines = agreed.get("lines")
    if not isinstance(lines, Sequence) or "lines" not in here:
        return "it has other layers or weights than were agreed"
    for number, (theirs, ours) in enumerate(zip(lines, here["lines"], strict=False), 1):
        if theirs != ours:
            return f"part {number} is `{ours}` here and `{theirs}` as agreed"
    return f"it has {len(here['lines'])} layers and weights here and {len(lines)} as agreed"


def _lines(network: keras.Model) -> Iterator[str]:
    for layer in network.layers:
        activation = getattr(getattr(layer, "activation", None), "__name__", "")
        shape = "x".join(str(size) for size in _shape(layer)[1:])
        yield " ".join(filter(None, (type(layer).__name__, layer.name, shape, activation)))
    for variable in network.weights:
        kept = "" if variable.trainable else " kept"
        yield f"{variable.path} {'x'.join(map(str, variable.shape))}{kept}"


def _shape(layer: Any) -> tuple[int | None, ...]:
    output = layer.output
    while isinstance(output, (list, tuple)):
        output = output[0]
    return tuple(output.shape)

"""Whether a network is the same on two machines: what is agreed of it, and how another one differs.

It is asked of networks that do not come with fedssh: of one's own, and of Keras, whose next version may have others.

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

MOST_BYTES = 16_384  # of the lines that a record repeats; above it, only their marks
MARK = 4  # hexadecimal digits of a line's own hash, by which a difference is found where the line is not repeated


def describe(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a network: `sha256` of its lines, `keras` that built it, and the `lines` themselves.

    Instead of lines that are too long, it has their `marks`, MARK digits for each.

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
    found = {"sha256": _sha256(text), "keras": keras.__version__, "lines": lines}
    return found if len(text) <= MOST_BYTES else {**found, "marks": "".join(map(_mark, lines))}


def recorded(found: Mapping[str, Any]) -> dict[str, Any]:
    """What of `describe` a record has room for."""
    return {name: value for name, value in found.items() if name != "lines" or "marks" not in found}


def difference(agreed: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """How a network differs from what was agreed, for people; None where it does not."""
    if here["sha256"] == agreed.get("sha256"):
        return None
    other = "keras" in agreed and agreed["keras"] != here["keras"]
    built = f" (Keras {here['keras']} here, {agreed['keras']} as agreed)" if other else ""
    lines, marks = agreed.get("lines"), agreed.get("marks")
    ours = here["lines"]
    if isinstance(lines, Sequence) and not isinstance(lines, str):
        for number, (theirs, line) in enumerate(zip(lines, ours, strict=False), 1):
            if theirs != line:
                return f"part {number} is `{line}` here and `{theirs}` as agreed{built}"
        return f"it has {len(ours)} layers and weights here and {len(lines)} as agreed{built}"
    if isinstance(marks, str):
        for number, line in enumerate(ours, 1):
            theirs = marks[MARK * (number - 1) : MARK * number]
            if theirs and theirs != _mark(line):
                return f"part {number} is `{line}` here and another one as agreed{built}"
        return f"it has {len(ours)} layers and weights here and {len(marks) // MARK} as agreed{built}"
    return f"it has other layers or weights than were agreed{built}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mark(line: str) -> str:
    return _sha256(line)[:MARK]


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

"""The sum of a round's masked updates, in a file like any model; of a single one nothing is ever plain here.

The sum is modulo 2**32, stretch by stretch, so memory does not grow with the number of updates; then the masks come off
by what the sites have answered, and the mean step is added to the model that all of them started from.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedssh import weights
from fedssh.errors import JudgeError, MaskError
from fedssh.masks.numbers import Fixed
from fedssh.masks.total import Masks, masks_of
from fedssh.masks.words import WORD, Stream
from fedssh.rules.masking import Masking
from fedssh.rules.policies import Policy
from fedssh.rules.rounds import Round

_STRETCH = 1 << 18  # words


def open_sum(policy: Policy, current: Round, masking: Masking, updates: Sequence[Path], base: Path, out: Path) -> int:
    """Write the model that the masked updates of a group come to; returns how many images they were trained on.

    Args:
        current: The round.
        masking: The group, answered by enough of its sites.
        updates: The files of those who arrived, in any order.
        base: The model that they started from.
        out: Where the model goes.

    Raises:
        JudgeError: The masks do not come off, or the sum is none.
        OSError: The disk is full or read-only.
    """
    assert masking.partners and masking.arrived
    header = weights.read_header(base)
    try:
        found = masks_of(
            masking.roster, masking.partners, masking.arrived, masking.shares, list(masking.answers.values())
        )
        total = summed(updates, header.parameters + 1, found)
        fixed = Fixed.agreed(policy, sum(len(one.roster.sites) for one in current.groups))
        steps, examples = fixed.read(total.tobytes(), len(masking.arrived))
    except (MaskError, ValueError) as error:
        raise JudgeError(f"the masks do not come off: {error}") from None
    start = weights.map_weights(base, header.tensors)
    ends = itertools.accumulate(math.prod(shape) for shape in header.tensors.values())
    tensors = {
        name: (start[name].astype(np.float64) + steps[end - start[name].size : end].reshape(start[name].shape)).astype(
            np.float32
        )
        for name, end in zip(header.tensors, ends, strict=True)
    }
    weights.write_weights(out, tensors, header.spec)
    return examples


def summed(updates: Sequence[Path], size: int, masks: Masks) -> np.ndarray:
    """The sum of the words of some files, modulo 2**32, without its masks: uint32 [size]."""
    total = np.zeros(size, np.uint32)
    for path in updates:
        start = weights.read_header(path).offset
        total += np.memmap(path, "<u4", "r", start, (size,))
    for add, keys in ((True, masks.add), (False, masks.take)):
        for key in keys:
            for at, words in _words(key, size):
                stretch = total[at : at + len(words)]
                (np.add if add else np.subtract)(stretch, words, out=stretch)
    return total


def _words(key: bytes, size: int) -> Iterator[tuple[int, np.ndarray]]:
    stream = Stream(key)
    for at in range(0, size, _STRETCH):
        yield at, np.frombuffer(stream.take(WORD * min(_STRETCH, size - at)), "<u4")

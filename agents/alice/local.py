"""What stays at a site from session to session.

    state/local-GENESIS-SESSION.safetensors      its own batch normalisation, where the plan says `local: batchnorm`
                                                 (FedBN, Li et al. 2021), as the session's last published model has it
    state/decoder-GENESIS-SESSION.safetensors    where the policy has a decoder: it and its optimizer at the turn's end

A session begins from the release with these in the place of the release's. The file of a session is written before its
model is published and used once the session is counted, so a session that is interrupted begins again with the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.errors import WeightsError
from fedssh.weights import read_header, read_weights, write_weights

if TYPE_CHECKING:
    import numpy as np

LOCAL, DECODER = "local", "decoder"
_NAME = re.compile(r"[a-z]+-([0-9a-f]{16})-([0-9]{6})\.safetensors")


def keep(
    state: Path, genesis: str, session: int, tensors: Mapping[str, np.ndarray], spec: dict[str, Any], what: str = LOCAL
) -> None:
    """Keep what a session leaves; nothing where nothing stays here.

    Raises:
        OSError: The disk is full or read-only; what was kept before is still there.
    """
    if tensors:
        write_weights(state / f"{what}-{genesis[:16]}-{session:06}.safetensors", tensors, spec)


def load(state: Path, genesis: str, sessions: int, what: str = LOCAL) -> dict[str, np.ndarray] | None:
    """What the newest of the sessions that are counted left, and forget what is older or of another federation.

    Args:
        sessions: How many are counted.

    Returns:
        None where there is nothing, or nothing that can be read.
    """
    found: tuple[int, Path] | None = None
    for path in sorted(state.glob(f"{what}-*.safetensors")):
        match = _NAME.fullmatch(path.name)
        if match and match[1] == genesis[:16] and int(match[2]) <= sessions:
            found = (int(match[2]), path)
    for path in state.glob(f"{what}-*.safetensors"):
        if found and path != found[1] and _NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if found is None:
        return None
    with contextlib.suppress(WeightsError, OSError):
        return read_weights(found[1], read_header(found[1]).tensors)
    return None

"""Where a room was in a turn, written down: its part's weights, its optimizer and its random numbers.

    <folder>/<turn>-<step, 10 digits>.safetensors     the newest two of a turn; one that is there is whole

A room writes before it says so to the other. So of two rooms that are killed anywhere, both have the step that the one
has written last of which the other has heard, or the one before it, and the beginning they always have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedssh.files import write_whole

if TYPE_CHECKING:
    import numpy as np

KEPT = 2
_NAME = re.compile(r"(?P<turn>[0-9a-f]{16})-(?P<step>[0-9]{10})\.safetensors")
Arrays = Mapping[str, "np.ndarray"]


class Kept:
    """What is kept of one turn.

    Args:
        folder: Where; what lies there of other turns is removed when something is kept. None keeps nothing.
        turn: Which turn: 16 hexadecimal digits.
    """

    def __init__(self, folder: Path | None, turn: str) -> None:
        self._folder = folder
        self._turn = turn

    def steps(self) -> tuple[int, ...]:
        """After how many steps something was kept, ascending."""
        if self._folder is None:
            return ()
        found = (_NAME.fullmatch(path.name) for path in self._folder.glob("*.safetensors"))
        return tuple(sorted(int(one["step"]) for one in found if one and one["turn"] == self._turn))

    def write(self, step: int, groups: Mapping[str, Arrays]) -> None:
        """Keep arrays by group and name, durably, and let go of all but the newest.

        Raises:
            OSError: The disk is full or read-only.
        """
        from safetensors.numpy import save

        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
        write_whole(self._path(step), save(arrays))
        wanted = {self._path(one).name for one in self.steps()[-KEPT:]}
        for path in self._folder.glob("*.safetensors"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)

    def read(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        """What `write` was given.

        Raises:
            OSError: It is gone.
            ValueError: It is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(self._path(step).read_bytes())
        except SafetensorError as error:
            raise ValueError(f"{self._path(step)} is damaged: {error}") from None
        groups: dict[str, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = array
        return groups

    def clear(self) -> None:
        """Let go of everything, also of other turns."""
        for path in self._folder.glob("*.safetensors") if self._folder else ():
            path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._turn}-{step:010}.safetensors"

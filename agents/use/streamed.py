"""Which images of a site would not stay in memory, and what they take on disk instead; see `models.data.pixel_file`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedssh.models.data.remarks import NOTE, Remark, memory
from fedssh.use.usable import usable_bytes

if TYPE_CHECKING:
    from fedssh.models.data.contents import Contents

TRAINED = ("train", "val")  # the splits that a site loads, in this order
BUFFERS = 0.15e9  # what streaming takes itself


def most_bytes(share: float) -> int:
    """How many bytes of images may stay in memory."""
    return int(share * usable_bytes())


@dataclass(frozen=True)
class Planned:
    """What `alice train` will do with the images.

    Attributes:
        streamed: The splits that stream from disk.
        needed: What all would take in memory, in bytes.
        taken: What those that stay there take.
        disk: What the others take on the disk, at most.
        share: Of the memory, that images may take.
    """

    streamed: tuple[str, ...]
    needed: int
    taken: int
    disk: int
    share: float

    def remark(self) -> Remark | None:
        """What there is to say; nothing where all stay in memory."""
        if not self.streamed:
            return None
        most = f"{self.share:.0%} of the {_shown(usable_bytes())} that may be used"
        text = (
            f"in memory, all images would take {_shown(self.needed)}, more than {most}: `alice train` streams "
            f"{' and '.join(self.streamed)} from disk, with about {_shown(self.taken + BUFFERS)} of memory for "
            f"images and at most {_shown(self.disk)} in its folder"
        )
        return Remark(NOTE, text, "--memory SHARE says how much of the memory images may take")

    def value(self) -> dict[str, Any]:
        """For programs."""
        return {
            "splits": list(self.streamed), "share": self.share, "usable_bytes": usable_bytes(),
            "memory_bytes": self.needed, "streaming_memory_bytes": int(self.taken + BUFFERS * bool(self.streamed)),
            "disk_bytes": self.disk,
        }  # fmt: skip


def planned(found: Contents, size: tuple[int, int, int], share: float) -> Planned:
    """Split by split as `alice train` loads them: what still fits stays in memory."""
    each: Mapping[str, int] = memory(found, size)
    most, taken, streamed = most_bytes(share), 0, []
    for split in TRAINED:
        if taken + each.get(split, 0) > most:
            streamed.append(split)
        else:
            taken += each.get(split, 0)
    disk = sum(each[split] for split in streamed) * _width(found, size) // 4
    return Planned(tuple(streamed), sum(each.get(split, 0) for split in TRAINED), taken, disk, share)


def _width(found: Contents, size: tuple[int, int, int]) -> int:
    """Bytes of a value in the file: as in the data set where the network takes its images as they are."""
    bits = {mode.split("-")[0] for mode in found.modes if "floating" not in mode}
    whole = set(found.sizes) == {size} and len(bits) == 1 and not any("floating" in mode for mode in found.modes)
    return math.ceil(int(bits.pop()) / 8) if whole else 4


def _shown(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

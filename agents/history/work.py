"""What went through the channels of split learning, in words and added up. Pure; standard library only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Fields = Mapping[str, Any]
    Row = dict[str, Any]

_ADDED = ("steps", "images", "received", "sent", "seconds")


def told(work: Fields) -> str:
    """`38 steps, 2,400 images, 7.8 MB in and 7.8 MB out, 18.6 steps a second`; in and out at the coordinator."""
    steps, seconds = work["steps"], work["seconds"]
    speed = f", {steps / seconds:.1f} steps a second" if seconds > 0 else ""
    traffic = f"{_megabytes(work['received'])} in and {_megabytes(work['sent'])} out"
    return f"{steps:,} {'step' if steps == 1 else 'steps'}, {work['images']:,} images, {traffic}{speed}"


def add(sum: Row | None, work: object) -> Row | None:
    """The sum of all turns after one more record; None before the first that has had one."""
    if not isinstance(work, dict):
        return sum
    before = sum or {"turns": 0, **dict.fromkeys(_ADDED, 0)}
    return {"turns": before["turns"] + 1, **{name: before[name] + work[name] for name in _ADDED}}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 50_000 else f"{count:,} bytes"

"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def until(condition: Callable[[], object], seconds: float = 5, said: Callable[[], str] = lambda: "") -> float:
    """Wait until something is so; returns the seconds that it took.

    Args:
        said: What to show when it does not happen in time, as the logs of those who should have done it.
    """
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"it did not happen in {seconds:g} s\n{said()}"
        time.sleep(0.01)
    return time.monotonic() - begun


def last_words(folder: Path, most: int = 2500) -> str:
    """The ends of all logs in a folder."""
    return "\n".join(f"{path.name}:\n{path.read_text()[-most:]}" for path in sorted(folder.glob("*.log")))

"""Whether there is a terminal that a screen can be drawn on."""

from __future__ import annotations

import os
import sys


def drawable() -> bool:
    """Whether a person types and looks here, at more than a typewriter."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")

"""How much memory this process may use: the machine's, or less where it is in a control group or has a limit."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
SHARE = 0.2  # of it, that images may take: while they are loaded, they take three times what they do in the end


def usable_bytes(root: Path = ROOT) -> int:
    """The smallest of what the machine has and what this process may have of it."""
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits = [limit for limit in own if limit != resource.RLIM_INFINITY]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits, *control_groups(root)])


def control_groups(root: Path = ROOT) -> Iterator[int]:
    """The limits of the control groups that this process is in, of either version."""
    base = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if kinds != "" and "memory" not in kinds.split(","):
            continue
        top, name = (base, "memory.max") if kinds == "" else (base / "memory", "memory.limit_in_bytes")
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            for text in _lines(folder / name):
                if text.isdecimal():
                    yield int(text)
            if folder == top:
                break


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []

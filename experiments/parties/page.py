"""The page that has the tables of these experiments."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.leaks import found
from experiments.machine import ROOT
from fedssh.files import write_whole

PAGE = ROOT / "docs" / "explanation" / "split-learning.md"
Rows = Sequence[Mapping[str, Any]]


def page_with(name: str, table: Callable[[Rows], str]) -> str:
    """The page as it should be, with the table of what was found."""
    return found.replaced(PAGE.read_text(), name, table(found.read(found.path_of(name))["runs"]))


def write(name: str, table: Callable[[Rows], str]) -> int:
    """Write the table into the page; returns the exit code."""
    write_whole(PAGE, page_with(name, table).encode(), 0o644)
    print(f"{PAGE.relative_to(ROOT)} has the table of {name}", file=sys.stderr)
    return 0

"""Pages of docs/reference, made from the code; and the pieces that all of them are made of."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; columns in which no row says anything are left out."""
    cells = [[" ".join(str(cell).replace("|", "\\|").split()) for cell in row] for row in rows]
    kept = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    lines = [" | ".join(row[index] for index in kept) for row in ([*columns], *cells)]
    head, *rest = (f"| {line} |" for line in lines)
    return "\n".join([head, "|---" * len(kept) + "|", *rest])


def block(text: str, kind: str = "") -> str:
    """Lines shown as they are."""
    return f"```{kind}\n{text.rstrip()}\n```"


def prose(text: str) -> str:
    """A text of the code as Markdown: nothing in it is a tag, what is indented is shown as it is."""
    parts = re.split(r"((?:^    .*\n|^\n(?=    ))+)", f"{inspect.cleandoc(text)}\n", flags=re.MULTILINE)
    words = [re.sub(r"(`[^`]*`)|([<*_])", lambda one: one[1] or f"\\{one[2]}", part).strip() for part in parts[::2]]
    blocks = [block(inspect.cleandoc(part)) for part in parts[1::2]]
    return "\n\n".join(part for pair in zip(words, [*blocks, ""], strict=True) for part in pair if part)

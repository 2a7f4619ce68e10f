"""Values as plain text: tables, lines of name and value, numbers and times. Pure.

Strings in a record may come from a site, so everything goes through `printable` before it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Aligned plain text with a heading; `right` are the columns that align to the right."""
    cells = [tuple(columns), *(tuple(_cell(value) for value in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    lines = []
    for row in cells:
        padded = (cell.rjust(width) if column in right else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def named_lines(pairs: Iterable[tuple[str, object]]) -> str:
    """One line per name and value, the values aligned."""
    known = [(printable(name), _cell(value)) for name, value in pairs]
    width = max((len(name) for name, _ in known), default=0)
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in known)


def printable(text: str) -> str:
    """A text with everything escaped that a terminal would act on or not show: controls, direction marks."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def _cell(value: object) -> str:
    return "–" if value is None or value == "" else printable(str(value))


def short(text: str | None) -> str | None:
    """At most 48 letters."""
    return text if text is None or len(text) <= 48 else text[:45] + "..."


def clock(time: object) -> str:
    """`2026-01-31T12:00:00.123Z` as `2026-01-31 12:00:00`."""
    return "–" if time is None else str(time)[:19].replace("T", " ")


def decimal(value: object) -> str:
    """Four decimals."""
    return f"{value:.4f}" if isinstance(value, int | float) else "–"


def number(count: object, thing: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def few(words: Iterable[object], most: int = 10) -> str:
    """Words with commas between them; of many only the first, and how many more there are."""
    every = [str(word) for word in words]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")

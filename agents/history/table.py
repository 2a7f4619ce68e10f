"""Values as plain text: tables, lines of name and value, numbers and times. Pure.

Strings in a record may come from a site, so everything goes through `printable` before it reaches a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

WIDE = 1e6


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Aligned plain text with a heading; `right` are the columns that align to the right."""
    known = list(rows)
    return "".join(table_lines(columns, lambda: known, right))


def table_lines(
    columns: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]], right: Sequence[int] = ()
) -> Iterator[str]:
    """The lines of a table that need not fit into memory.

    Args:
        rows: Gives the rows, the same each time: once to measure them, once to print them.
    """
    aligned = Aligned(columns, right)
    aligned.measure(rows())
    yield aligned.heading()
    yield from map(aligned.line, rows())


class Aligned:
    """The lines of a table of which more may come: a column is as wide as its widest cell until then.

    Args:
        columns: The heading.
        right: Which columns align to the right.
        least: How wide each is at least.
    """

    def __init__(self, columns: Sequence[str], right: Sequence[int] = (), least: Sequence[int] = ()) -> None:
        self._columns, self._right = columns, right
        self._widths = [len(column) for column in columns]
        self._widen(least or [0] * len(columns))

    def measure(self, rows: Iterable[Sequence[object]]) -> None:
        """Make room for some rows before the first is printed."""
        for row in rows:
            self._widen([len(_cell(value)) for value in row])

    def heading(self) -> str:
        """The first line."""
        return self._line(self._columns)

    def line(self, row: Sequence[object]) -> str:
        """The next line."""
        cells = [_cell(value) for value in row]
        self._widen([len(cell) for cell in cells])
        return self._line(cells)

    def _widen(self, widths: Sequence[int]) -> None:
        self._widths = [max(pair) for pair in zip(self._widths, widths, strict=True)]

    def _line(self, cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) if column in self._right else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(cells, self._widths, strict=True)))  # fmt: skip
        return "  ".join(padded).rstrip() + "\n"


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
    """Four decimals; of a number that would be wide, four digits and its size."""
    if not isinstance(value, int | float):
        return "–"
    if isinstance(value, int) and abs(value) >= WIDE:  # perhaps too large for a float
        digits = str(abs(value)) if abs(value) < 10**400 else ""
        return f"{'-' if value < 0 else ''}{digits[0]}.{digits[1:4]}e+{len(digits) - 1}" if digits else "–"
    return f"{value:.4f}" if abs(value) < WIDE else f"{value:.3e}"


def number(count: object, thing: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def few(words: Iterable[object], most: int = 10) -> str:
    """Words with commas between them; of many only the first, and how many more there are."""
    every = [str(word) for word in words]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")

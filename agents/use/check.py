"""What `alice check` and `charity check` share: a data set looked through, and what is said of it. Loads no Keras."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from fedssh.commands import print_json, print_table
from fedssh.errors import AgentError
from fedssh.models.data import contents, pictures
from fedssh.models.data.column_report import ColumnFound
from fedssh.models.data.contents import Contents
from fedssh.models.data.folders import SPLITS
from fedssh.models.data.pixels import sizes
from fedssh.models.data.reading import Reading
from fedssh.models.data.remarks import ERROR, NOTE, WARNING, Remark, agreement, memory, ratio, remarks, resizing
from fedssh.models.tasks import CLASSES, number_of
from fedssh.rules.precision import FEW, difference, half_width, sentence
from fedssh.use import streamed
from fedssh.use.streamed import Planned
from fedssh.use.usable import SHARE, usable_bytes


@dataclass(frozen=True)
class Agreed:
    """What a federation asks of images: its network's spec; nothing is known of it where it is None."""

    spec: Mapping[str, Any] | None = None


@dataclass
class Checked:
    """A data set and what there is to say of it.

    Attributes:
        data: Where it is.
        found: What is there.
        input: Height, width and channels that the network takes, where that is known.
        planned: What stays in memory and what streams from disk, where a site's images are looked at.
        said: The remarks.
    """

    data: Path
    found: Contents
    input: tuple[int, int, int] | None = None
    planned: Planned | None = None
    said: list[Remark] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """How many things keep it from training."""
        return sum(one.level == ERROR for one in self.said)

    @property
    def warnings(self) -> list[Remark]:
        """What a person should know."""
        return [one for one in self.said if one.level == WARNING]


def site_data(data: Path, reading: Reading, agreed: Agreed, unpack: bool = True, share: float = SHARE) -> Checked:
    """Look at the images of a site.

    Args:
        reading: What the files do not say, with the federation's class names.
        agreed: What the site has agreed to.
        unpack: Look at every image, not only at names and first bytes.
        share: Of the memory that images may take before they stream from disk.
    """
    checked = _look(data, reading, agreed, unpack, share)
    if checked.found.total and "train" not in checked.found.counts:
        checked.said.append(Remark(ERROR, "there is no train split", "nothing could be trained on"))
    return checked


def coordinator_data(data: Path, reading: Reading, agreed: Agreed, unpack: bool = True) -> Checked:
    """Look at the images of a coordinator, arguments as above: what models are scored on is her `val`."""
    checked = _look(data, reading, agreed, unpack)
    counts = checked.found.counts
    if not checked.found.total:
        return checked
    if "val" not in counts:
        checked.said.append(Remark(ERROR, "there is no val split to score models on", NO_VAL))
    else:
        number = counts["val"].total()
        few, more = number < FEW, MORE.format(checked.found.unit)
        text = f"val has {number:,} {checked.found.unit} to score models on"
        if checked.found.task == CLASSES:
            text = sentence(number, checked.found.unit)
        checked.said.append(Remark(WARNING if few else NOTE, text, more if few else None))
    if "train" not in counts:
        hint = "`charity init --weights FILE --genesis-epochs 0` begins without"
        checked.said.append(Remark(WARNING, "there is no train split for the first model", hint))
    return checked


NO_VAL = "`--holdout 0.2` cuts one out of train"
MORE = "more {}, or `charity init --holdout 0.2`, which adds a share of train"


def show(checked: Checked, as_json: bool) -> None:
    """Print a report, and end with 1 where something keeps the set from training.

    Raises:
        AgentError: Something does.
    """
    if as_json:
        print_json(_value(checked))
    else:
        _print(checked)
    if checked.errors:
        many = "1 thing keeps" if checked.errors == 1 else f"{checked.errors} things keep"
        raise AgentError(f"{many} {checked.data} from training", "the report says which")


def tell_warnings(checked: Checked, tell: Callable[[str], None]) -> None:
    """Say each warning in one line."""
    for one in checked.warnings:
        tell(f"{one.text}{f' ({one.hint})' if one.hint else ''}")


def progress(done: int, total: int) -> None:
    """How far it is, where a person looks at a terminal."""
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        click.echo(f"\r\033[K{'' if done == total else f'{done:,} of {total:,} images'}", nl=False, err=True)


def _look(data: Path, reading: Reading, agreed: Agreed, unpack: bool, share: float | None = None) -> Checked:
    found = contents.look_through(data, reading, progress) if unpack else contents.look(data, reading)
    checked = Checked(data, found, said=list(remarks(found)))
    if agreed.spec is None or not found.total:
        return checked
    height, width, channels = agreed.spec["input"]
    checked.input = (height, width, channels)
    checked.said += agreement(found, number_of(agreed.spec), reading)
    checked.said += resizing(found, checked.input) if found.unit != ROWS else ()
    if share is not None and found.unit != ROWS:
        checked.planned = streamed.planned(found, checked.input, share)
        if remark := checked.planned.remark():
            checked.said.append(remark)
            return checked
    needed, there = sum(memory(found, checked.input).values()), usable_bytes()
    if needed > there / 2:
        text = f"as the network sees it, it takes {_size(needed)} of the {_size(there)} of memory that may be used"
        checked.said.append(Remark(WARNING, text, "smaller images, or more memory"))
    return checked


def _value(checked: Checked) -> dict[str, Any]:
    found = checked.found
    val = found.counts.get("val")
    return {
        "data": str(checked.data),
        "kind": _kind(checked.data),
        "task": found.task,
        "classes": found.names,
        "splits": {split: dict(counts) for split, counts in found.counts.items()},
        **({"unlabelled": found.unlabelled} if found.unlabelled else {}),
        "imbalance": {split: ratio(counts) for split, counts in found.counts.items()},
        "sizes": {"x".join(map(str, size)): number for size, number in found.sizes.items()},
        "modes": dict(found.modes),
        "unusable": found.wrong,
        "passed_over": found.ignored,
        "alike": {"by": _by(found), "groups": found.alike} if found.unpacked else None,
        **({"columns": [asdict(one) for one in found.columns]} if found.unit == ROWS else {}),
        "patients": {name: sorted(splits) for name, splits in sorted(found.patients.items())},
        "input": checked.input,
        "memory_bytes": memory(found, checked.input) if checked.input else None,
        "streaming": checked.planned.value() if checked.planned else None,
        "holdout": {"images": val.total(), "accuracy": half_width(val.total()), "difference": difference(val.total())}
        if val and found.task == CLASSES
        else None,
        "remarks": [asdict(one) for one in checked.said],
        "errors": checked.errors,
        "warnings": len(checked.warnings),
    }


def _print(checked: Checked) -> None:
    found = checked.found
    if found.total:
        _print_counts(found)
        if found.unit == ROWS:
            _print_columns(found)
        else:
            modes = ", ".join(f"{number:,} {mode}" for mode, number in found.modes.most_common())
            print(f"\n{found.total:,} images of {sizes(found.sizes)}: {modes}")
        if checked.input:
            taken = memory(found, checked.input)
            shape = "x".join(map(str, checked.input))
            each = ", ".join(f"{split} {_size(taken[split])}" for split in SPLITS if split in taken)
            print(f"in memory, as the network sees them ({shape}): {each}")
        if found.patients:
            print(f"{len(found.patients):,} patients are known")
        alike = f"{len(found.alike):,} of them more than once" if found.alike else "each of them once"
        print(f"by their {_by(found)}, {alike}\n")
    for one in checked.said:
        print_line(one)
    print(f"{checked.errors or 'no'} error{'s'[: checked.errors != 1]}, "
          f"{len(checked.warnings) or 'no'} warning{'s'[: len(checked.warnings) != 1]}")  # fmt: skip


def _by(found: Contents) -> str:
    return "cells" if found.unit == ROWS else "decoded pixels"


def _print_columns(found: Contents) -> None:
    rows = [(one.own, one.kind, f"{one.missing:,}", _values(one)) for one in found.columns]
    print()
    print_table(("COLUMN", "KIND", "MISSING", "VALUES"), rows[:MOST_COLUMNS])
    more = f", of which {MOST_COLUMNS} are shown; --json has all" if rows[MOST_COLUMNS:] else ""
    print(f"\n{found.total:,} rows of {len(rows):,} columns{more}")


def _values(one: ColumnFound) -> str:
    if one.categories is not None:
        counts = sorted(one.categories.items(), key=lambda pair: -pair[1])
        return ", ".join(f"{name} ({number:,})" for name, number in counts[:4]) + (", …" if counts[4:] else "")
    return "" if one.least is None else f"{one.least:g} … {one.most:g}"


def print_line(one: Remark) -> None:
    """Print a remark for people, its hint below."""
    from fedssh.commands import printable

    print(printable(f"{one.level}: {one.text}"))
    if one.hint:
        print(printable(f"  hint: {one.hint}"))


def _print_counts(found: Contents) -> None:
    names = list(found.names or sorted({name for counts in found.counts.values() for name in counts}, key=_number))
    names = names if found.task == CLASSES else []
    more = names[SHOWN:]
    columns = ["SPLIT", found.unit.upper(), *names[:SHOWN], *([f"{len(more)} MORE"] if more else [])]
    rows = []
    for split in SPLITS:
        if counts := found.counts.get(split):
            rest = [f"{sum(counts[name] for name in more):,}"] if more else []
            rows.append([split, f"{counts.total():,}", *(f"{counts[name]:,}" for name in names[:SHOWN]), *rest])
    print_table(columns, rows)


SHOWN = 10  # columns of classes
MOST_COLUMNS = 60
ROWS = "rows"


def _number(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1, name)


def _kind(data: Path) -> str:
    if data.is_dir():
        return "folder"
    return {pictures.ARCHIVE: "archive", pictures.TABLE: "table"}.get(data.suffix.lower(), "arrays")


def _size(size: float) -> str:
    unit, factor = next((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 0)) if size >= factor)
    return f"{size / (factor or 1e3):.1f} {unit}"

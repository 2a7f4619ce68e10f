"""The coordinator's own images: which network they ask for, and what their classes are called.

What nobody says is taken from the images: size, channels, number of classes and their names. What somebody says that is
not theirs is said once more, with what it does to them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError
from fedssh.models import check_spec, freezing
from fedssh.models.data import classes, images
from fedssh.models.data.holdout import Cut, divide, identity, read_cut
from fedssh.models.data.pixels import Changes, sizes
from fedssh.models.data.reading import AS_IT_IS, Description, Reading, meaning
from fedssh.models.data.table import read_columns

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})(?:x(\d{1,2}))?")


@dataclass(frozen=True)
class Taken:
    """What a federation takes from its coordinator's images.

    Attributes:
        spec: The architecture, written out in full.
        class_names: In label order; None where nobody says.
        told: Lines for people.
    """

    spec: dict[str, Any]
    class_names: list[str] | None
    told: list[str]


def take(
    data: Path,
    architecture: str,
    size: str | None = None,
    given: str | None = None,
    reading: Reading = AS_IT_IS,
    frozen: str | None = None,
) -> Taken:
    """Look at the coordinator's images.

    Args:
        data: Where they are.
        architecture: A registered name, or a spec as JSON or in a file `@FILE`.
        size: HEIGHTxWIDTH or HEIGHTxWIDTHxCHANNELS of the network's images; None is the images' own.
        given: What `--classes` says.
        reading: What the files do not say.
        frozen: Which layers are not trained; None is what the architecture says.

    Raises:
        SettingsError: The images cannot be used, or do not say what is needed.
    """
    wanted = _read(architecture) | _frozen(frozen)
    try:
        found = images.describe(data, reading)
        held = classes.settle(found.names, found.classes, classes.read_classes(given))
        names = list(held.names) if held else None
        number = len(names) if names else found.classes
        shape = _input(data, wanted.get("input"), size, found)
    except classes.NamesError as error:
        raise SettingsError(str(error), error.hint) from None
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        raise SettingsError(str(error), "--data takes an .npz file or a folder of images per class") from None
    try:
        spec = check_spec({"name": "cnn", **wanted, "input": shape, "classes": wanted.get("classes", number)})
    except ValueError as error:
        raise SettingsError(f"--architecture: {error}", "--size has images resized, as --size 64x64") from None
    if names and spec["classes"] != len(names):
        raise SettingsError(
            f"--architecture has {spec['classes']} classes, {data} has {len(names)}: {meaning(names)}",
            "leave the classes out of --architecture, or rename them with --classes",
        )
    return Taken(spec, names, _told(data, spec, found, names))


def to_record(
    data: Path, patient: str | None = None, columns: str | None = None, share: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """What vault/charity.json says of files that do not say it themselves; nothing where nobody said anything.

    Args:
        data: Her images.
        patient: What `--patient` says.
        columns: What `--columns` says.
        share: Of `train`, to be cut out as the holdout, beside a `val` that there may be; None cuts nothing.
        seed: Which images are cut.

    Raises:
        SettingsError: The images or the settings do not suit each other.
    """
    said: dict[str, Any] = {key: value for key, value in (("patient", patient), ("columns", columns)) if value}
    try:
        reading = to_reading(said)
        if share is not None:
            rows = images.rows(data, reading)
            cut = Cut(share, seed, identity(rows), len(rows))
            divide(rows, cut, str(data))
            said["holdout"] = cut.recorded()
    except (OSError, ValueError) as error:
        raise SettingsError(str(error)) from None
    return said


def told_of_cut(data: Path, said: Mapping[str, Any]) -> str | None:
    """One line on the holdout that `to_record` cut; None where it cut nothing."""
    reading = to_reading(said)
    if reading.cut is None:
        return None
    rows = images.rows(data, dataclasses.replace(reading, cut=None))
    train, val = divide(rows, reading.cut, str(data))
    joined = sum(row.split == "val" for row in rows)
    patients = {row.patient for row in rows} - {None}
    beside = f", {joined:,} of them as val already" if joined else ""
    whole = f"; none of {len(patients):,} patients is in both" if patients else ""
    return f"the holdout is {len(val):,} of {len(rows):,} images{beside}; {len(train):,} stay to train on{whole}"


def reading_of(genesis: Mapping[str, Any], private: Mapping[str, Any], other: Path | None = None) -> dict[str, Any]:
    """How the judge reads the coordinator's images, as JSON: by the genesis record and vault/charity.json.

    Both may be of a time that knew no names and asked for no white: then labels and pixels are taken as they are.

    Args:
        other: Other images than hers. From these, no holdout is cut; but where they are hers at another place, it is.
    """
    value = {
        "names": genesis.get("class_names"),
        "classes": private.get("classes"),
        "max_value": private.get("max_value"),
        "dark": "max_value" not in private,
    }
    said = {key: private[key] for key in ("patient", "columns", "holdout") if private.get(key) is not None}
    if "holdout" in said and other is not None and not _hers(other, said):
        said = {key: said[key] for key in said if key == "columns"}
    return value | said


def to_reading(value: Mapping[str, Any]) -> Reading:
    """What `reading_of` wrote."""
    given = classes.read_classes(value.get("classes"))
    return Reading(
        value.get("names"), given, value.get("max_value"), dark=value.get("dark", False),
        patient=value.get("patient"), columns=read_columns(value.get("columns")), cut=read_cut(value.get("holdout")),
    )  # fmt: skip


def _hers(data: Path, said: Mapping[str, Any]) -> bool:
    """Whether images are those that the holdout was cut from."""
    try:
        reading = dataclasses.replace(to_reading(said), cut=None)
        return bool(identity(images.rows(data, reading)) == said["holdout"]["sha256"])
    except (OSError, ValueError):
        return False


def _read(architecture: str) -> dict[str, Any]:
    """The parts of a spec that are named."""
    try:
        text = Path(architecture[1:]).read_text() if architecture.startswith("@") else architecture
        value = json.loads(text) if text.lstrip().startswith("{") else {"name": text.strip()}
        check_spec(
            {"input": [224, 224, 3], "classes": 2, **value}
        )  # large enough for all; hers are held against it later
    except (ValueError, OSError) as error:
        raise SettingsError(f"--architecture: {error}", 'such as cnn, or {"name":"cnn","depth":8}') from None
    named: dict[str, Any] = value
    return named


def _frozen(frozen: str | None) -> dict[str, Any]:
    if frozen is None:
        return {}
    try:
        return {"frozen": freezing.check(frozen)}
    except ValueError as error:
        raise SettingsError(f"--frozen: {error}") from None


def _input(data: Path, named: Any, size: str | None, found: Description) -> list[int]:
    if size is not None:
        match = _SIZE.fullmatch(size)
        if not match:
            raise SettingsError(f"--size is {size!r}, expected HEIGHTxWIDTH or HEIGHTxWIDTHxCHANNELS", "such as 64x64")
        said = [int(number) for number in match.groups() if number]
        if named is not None and list(named[: len(said)]) != said:
            raise SettingsError(f"--size is {size}, --architecture says {named}", "give one of the two")
        if len(said) == 3:
            return said
        return [*said, named[2] if named is not None else _channels(data, found)]
    if named is not None:
        return list(named)
    if found.input is not None:
        return list(found.input)
    if len({shape[:2] for shape in found.found}) > 1:
        raise SettingsError(
            f"{data} has images of {sizes(found.found)}; a network takes one",
            "--size says which, such as --size 64x64; images are resized to it",
        )
    height, width, _ = next(iter(found.found))
    return [height, width, _channels(data, found)]


def _channels(data: Path, found: Description) -> int:
    kinds = {shape[2] for shape in found.found}
    if len(kinds) > 1:
        grey = sum(number for shape, number in found.found.items() if shape[2] == 1)
        coloured = sum(found.found.values()) - grey
        height, width = next(iter(found.found))[:2]
        raise SettingsError(
            f"{data} has {grey:,} grey and {coloured:,} coloured images; a network takes one kind",
            f"--size with three numbers says which, such as {height}x{width}x1 for grey or {height}x{width}x3",
        )
    return kinds.pop()


def _told(data: Path, spec: Mapping[str, Any], found: Description, names: list[str] | None) -> list[str]:
    height, width, channels = spec["input"]
    kind = {1: "grey", 3: "coloured"}.get(channels, f"{channels}-channel")
    called = f": {meaning(names)}" if names else " without names, so no site is held to what a label means"
    lines = [f"the network takes {height}x{width} {kind} images in {spec['classes']} classes{called}"]
    if change := Changes(found.found).told((height, width, channels)):
        lines.append(f"of {data}, {change}")
    if not names:
        lines.append("--classes 0=NAME,1=NAME,… names them")
    if found.ignored:
        lines.append(f"of {data}, {found.ignored}")
    return lines

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
from fedssh.models import TABLE, check_spec, freezing, tasks
from fedssh.models.data import classes, images
from fedssh.models.data.cells import CATEGORY, few
from fedssh.models.data.columns import Columns, read_columns_record
from fedssh.models.data.holdout import Cut, divide, identity, read_cut
from fedssh.models.data.pixels import Changes, sizes
from fedssh.models.data.reading import AS_IT_IS, Description, Reading, meaning
from fedssh.models.data.table import read_columns

IMAGES, TABLES = {"name": "cnn"}, {"name": "mlp", "width": 64, "depth": 2}  # where nobody names a network
LEAST_NUMBERS = 3  # of a row: `alice.leaving` takes networks on one or two for such as tell of single examples
_OF_TABLE = ("target", "features", "leave_out")
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})(?:x(\d{1,2}))?")


@dataclass(frozen=True)
class Taken:
    """What a federation takes from its coordinator's images.

    Attributes:
        spec: The architecture, written out in full.
        class_names: Of classes or targets, in label order; None where nobody says.
        told: Lines for people.
        table: Of a table of features, what is agreed of its columns, as JSON.
    """

    spec: dict[str, Any]
    class_names: list[str] | None
    told: list[str]
    table: dict[str, Any] | None = None


def take(
    data: Path,
    architecture: str | None,
    size: str | None = None,
    given: str | None = None,
    reading: Reading = AS_IT_IS,
    frozen: str | None = None,
) -> Taken:
    """Look at the coordinator's images.

    Args:
        data: Where they are.
        architecture: A registered name, or a spec as JSON or in a file `@FILE`; None is one that suits the images.
        size: HEIGHTxWIDTH or HEIGHTxWIDTHxCHANNELS of the network's images; None is the images' own.
        given: What `--classes` says.
        reading: What the files do not say.
        frozen: Which layers are not trained; None is what the architecture says.

    Raises:
        SettingsError: The images cannot be used, or do not say what is needed.
    """
    wanted, left_out = read_architecture(architecture) | _frozen(frozen), list[str]()
    reading = dataclasses.replace(reading, task=reading.task or wanted.get("task"))
    try:
        found = images.describe(data, dataclasses.replace(reading, tell=left_out.append))
        held = classes.settle(found.names, found.classes, classes.read_classes(given))
        names = list(held.names) if held else None
        number = len(names) if names else found.classes
        shape = _input(data, wanted.get("input"), size, found)
        if wanted.get("task", found.task) != found.task:
            raise ValueError(f"--architecture has the task {wanted['task']}, the labels of {data} are {found.task}")
        if found.task == tasks.REGRESSION:
            of_task = {"task": found.task, **({} if "targets" in wanted else _targets(data, found, names, reading))}
        elif found.task == tasks.LABELS:
            of_task = {"task": found.task, "labels": number}
        else:
            of_task = {"classes": wanted.get("classes", number)}
    except classes.NamesError as error:
        raise SettingsError(str(error), error.hint) from None
    except SettingsError:
        raise
    except (OSError, ValueError) as error:
        raise SettingsError(str(error), "--data takes an .npz file, a folder of images per class or a table") from None
    usual, kind = (TABLES, {"kind": TABLE}) if found.table else (IMAGES, {})
    wanted = wanted if "name" in wanted else {**usual, **wanted}
    try:
        spec = check_spec({**wanted, "input": shape, **of_task, **kind})
    except ValueError as error:
        hint = "leave it out, or take mlp" if found.table else "--size has images resized, as --size 64x64"
        raise SettingsError(f"--architecture: {error}", hint) from None
    if names and tasks.number_of(spec) != len(names):
        raise SettingsError(
            f"--architecture has {tasks.number_of(spec)} classes, {data} has {len(names)}: {meaning(names)}",
            "leave the classes out of --architecture, or rename them with --classes",
        )
    if found.table:
        if found.table.width < LEAST_NUMBERS:
            raise SettingsError(
                f"{data} makes {found.table.width} number{'s'[: found.table.width != 1]} a row, and a network needs "
                f"{LEAST_NUMBERS} or more",
                "with fewer, its units tell single rows apart by chance, which a site does not train from",
            )
        return Taken(spec, names, _told_of_table(data, spec, found.table, names, left_out), found.table.record())
    return Taken(spec, names, _told(data, spec, found, names))


def to_record(
    data: Path,
    patient: str | None = None,
    columns: str | None = None,
    share: float | None = None,
    seed: int = 0,
    target: str | None = None,
    features: str | None = None,
    leave_out: str | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """What vault/charity.json says of files that do not say it themselves; nothing where nobody said anything.

    Args:
        data: Her images.
        patient: What `--patient` says.
        columns: What `--columns` says.
        share: Of `train`, to be cut out as the holdout, beside a `val` that there may be; None cuts nothing.
        seed: Which images are cut.
        target, features, leave_out: What the options of these names say of a table of features.
        task: What `--task` says.

    Raises:
        SettingsError: The images or the settings do not suit each other.
    """
    texts = {
        "patient": patient, "columns": columns, "target": target, "features": features, "leave_out": leave_out,
        "task": task,
    }  # fmt: skip
    said: dict[str, Any] = {key: value for key, value in texts.items() if value}
    try:
        reading = to_reading(said)
        if share is not None:
            rows = images.rows(data, reading)
            cut = Cut(share, seed, identity(rows), len(rows))
            divide(rows, cut, str(data))
            said["holdout"] = cut.recorded()
    except (OSError, ValueError) as error:
        raise SettingsError(str(error), getattr(error, "hint", None)) from None
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
    unit = "rows" if images.is_table(data, reading) else "images"
    whole = f"; none of {len(patients):,} patients is in both" if patients else ""
    return f"the holdout is {len(val):,} of {len(rows):,} {unit}{beside}; {len(train):,} stay to train on{whole}"


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
    value |= {"table": genesis["table"]} if genesis.get("table") is not None else {}
    if task := genesis["spec"].get("task", tasks.CLASSES) if "spec" in genesis else private.get("task"):
        value["task"] = task
    said = {key: private[key] for key in (*_OF_TABLE, "patient", "columns", "holdout") if private.get(key) is not None}
    if "holdout" in said and other is not None and not _hers(other, said):
        said = {key: said[key] for key in said if key in (*_OF_TABLE, "columns")}
    return value | said


def to_reading(value: Mapping[str, Any]) -> Reading:
    """What `reading_of` wrote."""
    given = classes.read_classes(value.get("classes"))
    return Reading(
        value.get("names"), given, value.get("max_value"), dark=value.get("dark", False),
        patient=value.get("patient"), columns=read_columns(value.get("columns")), cut=read_cut(value.get("holdout")),
        target=value.get("target"), features=_listed(value.get("features")), leave_out=_listed(value.get("leave_out")),
        table=None if value.get("table") is None else read_columns_record(value["table"]), task=value.get("task"),
    )  # fmt: skip


def _listed(names: str | None) -> tuple[str, ...]:
    return tuple(classes.plain(name) for name in (names or "").split(",") if name.strip())


def _hers(data: Path, said: Mapping[str, Any]) -> bool:
    """Whether images are those that the holdout was cut from."""
    try:
        reading = dataclasses.replace(to_reading(said), cut=None)
        return bool(identity(images.rows(data, reading)) == said["holdout"]["sha256"])
    except (OSError, ValueError):
        return False


def read_architecture(architecture: str | None) -> dict[str, Any]:
    """The parts of a spec that `--architecture` names.

    Raises:
        SettingsError: It is no name, no spec and no file with one.
    """
    if architecture is None:
        return {}
    try:
        text = Path(architecture[1:]).read_text() if architecture.startswith("@") else architecture
        value = json.loads(text) if text.lstrip().startswith("{") else {"name": text.strip()}
        of_task: dict[str, Any] = {} if "task" in value else {"classes": 2}
        if value.get("task") in tasks.SEVERAL:  # the rest may come from the images
            of_task = (
                {"targets": [{"mean": 0.0, "deviation": 1.0}]} if value["task"] == tasks.REGRESSION else {"labels": 1}
            )
        check_spec({"input": [224, 224, 3], **of_task, **value})  # large enough for all; hers are held against it later
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


def _targets(data: Path, found: Description, names: list[str] | None, reading: Reading) -> dict[str, Any]:
    """The figures that standardise what is predicted: of the training images."""
    if found.names is not None and names != list(found.names):
        raise ValueError("--classes: numbers to predict have the names of their columns; they cannot be renamed here")
    read = dataclasses.replace(reading, task=tasks.REGRESSION)
    return {"targets": tasks.figures(images.targets(data, found.classes, read))}


def _told(data: Path, spec: Mapping[str, Any], found: Description, names: list[str] | None) -> list[str]:
    height, width, channels = spec["input"]
    kind = {1: "grey", 3: "coloured"}.get(channels, f"{channels}-channel")
    called = f": {meaning(names)}" if names else " without names, so no site is held to what a label means"
    if found.task == tasks.LABELS:
        lines = [
            f"the network takes {height}x{width} {kind} images and says of each of {spec['labels']} labels whether an "
            f"image has it ({', '.join(names) if names else 'they have no names'}): the task is labels"
        ]
    elif found.task == tasks.REGRESSION:
        shown = [f"mean {one['mean']:.4g}, deviation {one['deviation']:.4g}" for one in spec["targets"]]
        each = [f"{name}: {text}" for name, text in zip(names or [""], shown, strict=True)] if names else shown
        number = tasks.number_of(spec)
        lines = [
            f"the network takes {height}x{width} {kind} images and predicts {number} number{'s'[: number != 1]} "
            f"({'; '.join(each)}): the labels are numbers, so the task is regression"
        ]
    else:
        lines = [f"the network takes {height}x{width} {kind} images in {spec['classes']} classes{called}"]
    if change := Changes(found.found).told((height, width, channels)):
        lines.append(f"of {data}, {change}")
    if not names and found.task == tasks.CLASSES:
        lines.append("--classes 0=NAME,1=NAME,… names them")
    if found.ignored:
        lines.append(f"of {data}, {found.ignored}")
    return lines


def _told_of_table(
    data: Path, spec: Mapping[str, Any], table: Columns, names: list[str] | None, left_out: list[str]
) -> list[str]:
    called = f": {meaning(names)}" if names else " without names, so no site is held to what a label means"
    what = f"{table.target} in {spec.get('classes')} classes{called}"
    if tasks.task_of(spec) == tasks.REGRESSION:
        (figures,) = spec["targets"]
        mean, deviation = figures["mean"], figures["deviation"]
        what = f"{table.target} is a number (regression), mean {mean:.4g}, deviation {deviation:.4g}"
    kinds = [column.kind for column in table.columns]
    each = ", ".join(f"{kinds.count(kind)} of the kind {kind}" for kind in dict.fromkeys(kinds))
    lines = [
        f"{data} is a table: {what}",
        f"by {len(kinds)} columns, {each}: {few(table.names)}",
        f"the network is {spec['name']}, which takes {table.width} numbers a row",
        "the first record tells all sites the columns, the mean and the deviation of each number over her training rows"
        + (", and the categories of each text" if CATEGORY in kinds else ""),
    ]
    return lines + left_out

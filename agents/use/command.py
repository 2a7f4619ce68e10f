"""What `alice` and `charity` share of their verbs `predict` and `export`: options, files, and words at the end."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from fedssh.commands import path_argument, print_json
from fedssh.errors import AgentError, SettingsError
from fedssh.files import part_of

if TYPE_CHECKING:
    from fedssh.models.data.new_rows import NewRows
    from fedssh.models.data.unlabelled import Unlabelled
    from fedssh.use.card import Origin

EXAMPLE = "\b\nExample:\n  {0} predict photographs --csv predictions.csv\n  {0} predict one.png"


def predict_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options of `predict`."""
    csv = click.option("--csv", type=click.Path(path_type=Path), help="Write the table there, not to standard output.")
    options = [
        click.argument("data", metavar="FOLDER|FILE", type=path_argument()),
        csv,
        click.option("--key", metavar="NAME", help="The array of an .npz file.  [images, x, test_images or x_test]"),
        click.option(
            "--threshold", type=click.FloatRange(0, 1), metavar="P",
            help="With two classes: the second one from this on.  [as recorded]",
        ),
        click.option("--max-value", type=click.IntRange(min=1), metavar="N", help="White in integer pixels."),
        click.option("--columns", metavar="NAMES", help="Of a table, what is called otherwise here: AGREED=HERE,…"),
        click.option("--json", "as_json", is_flag=True, help="Print how many were called what as JSON."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def predict(
    origin: Origin, model: Path, data: Path, csv: Path | None, key: str | None, threshold: float | None,
    max_value: int | None, columns: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what a model makes of images, and end with 1 where some could not be read.

    Raises:
        SettingsError: There are no images, or the threshold does not go with the classes.
    """
    from fedssh.models import tasks
    from fedssh.use.decide import Decision
    from fedssh.use.predict import Predictor, class_names, target_names, write_csv, write_labels, write_numbers

    spec = origin.genesis["spec"]
    task = tasks.task_of(spec)
    names = (class_names if task == tasks.CLASSES else target_names)(origin.genesis)
    if threshold is not None and (task != tasks.CLASSES or len(names) != 2):
        here = f"are {len(names)}" if task == tasks.CLASSES else f"the task is {task}"
        raise SettingsError(f"--threshold is for two classes, here {here}")
    try:
        images = _examples(origin, data, key, max_value, columns)
    except (ValueError, FileNotFoundError) as error:
        raise SettingsError(str(error), getattr(error, "hint", None)) from None
    predictor, decision = Predictor(spec, model), Decision.recorded(origin.metrics, threshold)
    with _sink(csv) as sink, Progress(len(images), images.unit) as progress:
        said, first = predictor.predict(images, progress), FIRST[images.unit]
        if task != tasks.CLASSES:
            write = write_numbers if task == tasks.REGRESSION else write_labels
            totals = write(said, names, sink, first)
        else:
            totals = write_csv(said, names, sink, decision, first)
    passed = {name: number for name, number in images.passed.items() if not name.startswith("the empty folder")}
    if as_json:
        found = {"called": totals.called, "unreadable": totals.unreadable, "passed_over": passed}
        print_json({**origin.short(), **decision.value(), **found})
    else:
        _say(origin, totals.called, passed, csv, decision.told(names, origin.rule), images.unit)
    if totals.unreadable:
        raise AgentError(
            f"{totals.unreadable:,} of {len(images):,} {images.unit} could not be read; the table says why"
        )


FIRST = {"images": "file", "rows": "row"}  # what the first column is called


def _examples(
    origin: Origin, data: Path, key: str | None, max_value: int | None, columns: str | None
) -> Unlabelled | NewRows:
    from fedssh.models.data.columns import read_columns_record
    from fedssh.models.data.new_rows import NewRows
    from fedssh.models.data.table import read_columns
    from fedssh.models.data.unlabelled import Unlabelled

    if (table := origin.genesis.get("table")) is None:
        return Unlabelled(data, tuple(origin.genesis["spec"]["input"]), max_value, key)
    return NewRows(data, read_columns_record(table), read_columns(columns))


def _say(
    origin: Origin, called: Mapping[str, int], passed: Mapping[str, int], csv: Path | None, decided: str, unit: str
) -> None:
    counts = ", ".join(f"{number:,} {name}" for name, number in sorted(called.items())) or f"no {unit}"
    where = f", in {csv}" if csv else ""
    click.echo(f"by the model of {origin.named}: {counts}{where}", err=True)
    if decided:
        click.echo(decided, err=True)
    if passed:
        click.echo(
            f"passed over: {', '.join(f'{name} ({number:,})' for name, number in sorted(passed.items()))}", err=True
        )


@contextlib.contextmanager
def _sink(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is there whole or not at all."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    part = part_of(path)
    try:
        with part.open("x", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Progress:
    """How far it is, where a person looks at a terminal."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int) -> None:
        """Say that so many are done."""
        if self._shown:
            print(f"\r{done:,} of {self._total:,} {self._unit}\033[K", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def export(origin: Origin, model: Path, file: Path, max_value: int) -> None:
    """Write a model as FILE.keras, FILE.onnx or FOLDER.savedmodel with its card.

    Raises:
        SettingsError: The file's name does not end so, or the extra `onnx` is missing.
    """
    shown = {
        ".keras": f"unzip -p {file} README.md", ".savedmodel": f"{file}/assets.extra/README.md",
        ".onnx": "README.md of its metadata",
    }  # fmt: skip
    if file.suffix not in shown:
        raise SettingsError(f"{file} does not end in .keras, .onnx or .savedmodel")
    from fedssh.use.export import export_keras

    genesis = origin.genesis
    table = genesis.get("table")
    said = export_keras(
        model, genesis["spec"], genesis["plan"], genesis.get("class_names"), file, max_value, origin, table
    )
    click.echo(f"wrote {file}: takes {said['input']}; gives {said['output']}")
    if "decision" in said:
        click.echo(said["decision"])
    click.echo(f"its model card: {shown[file.suffix]}")

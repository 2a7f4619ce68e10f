"""A stored model as a `.keras` file, for the owner's own use; never read again here.

The exported network takes pixels as files have them, 0..255 and of the agreed size, and scales them itself; or the
cells of a table, see `on_features`. Beside Keras's own members the file, which is a zip archive, has

    class_names.json    {"class_names": [NAME, …] | null, "input": TEXT, "output": TEXT, "federation", "record": NUMBER,
                        "hash": of that record, "model": SHA-256 of the model file that the record names; where
                        they were agreed "threshold": of that output, "temperature", and "decision": both in words;
                        of a table also "table": the columns that it takes, as in record 1}
    README.md           the model card, see `card`

which Keras passes over; `unzip -p FILE.keras class_names.json` shows it.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedssh import weights
from fedssh.models import build, get_weights, loss_name, set_weights, tasks
from fedssh.models.backend import load_keras
from fedssh.models.data.columns import read_columns_record
from fedssh.models.training import optimizer_of
from fedssh.use import served
from fedssh.use.card import Origin, card
from fedssh.use.decide import Decision
from fedssh.use.on_features import input_of, on_features
from fedssh.use.predict import class_names as names_of

ENTRY = "class_names.json"
CARD = "README.md"
METRICS = {tasks.CLASSES: "accuracy", tasks.LABELS: "binary_accuracy", tasks.REGRESSION: "mae"}  # as Keras has them


def export_keras(
    model: Path,
    spec: dict[str, Any],
    plan: dict[str, Any],
    class_names: Sequence[str] | None,
    out: Path,
    white: int = 255,
    origin: Origin | None = None,
    table: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a stored model, compiled as the sites train it, whole or not at all: as its name ends, see `served`.

    Args:
        class_names: In label order; None where the federation has none.
        white: What white is in the pixels that the exported network takes.
        origin: Where the model comes from, for the file and its card.
        table: What the federation has agreed on of a table, as in record 1; None of images.

    Returns:
        What its `class_names.json` says.
    """
    keras = load_keras()
    network = build(spec)
    shapes = {name: tuple(array.shape) for name, array in get_weights(network).items()}
    set_weights(network, weights.read_weights(model, shapes))
    columns = None if table is None else read_columns_record(table)
    regression = tasks.task_of(spec) == tasks.REGRESSION
    if columns is not None:
        exported = on_features(network, columns, f"{spec['name']}_on_features")
    else:
        pixels = keras.Input(shape=tuple(spec["input"]), name="pixels")
        scaled = keras.layers.Rescaling(1 / white, name="scaling")(pixels)
        exported = keras.Model(pixels, network(scaled), name=f"{network.name}_on_pixels")
    if regression:  # in the targets' own units
        figures = [[one[name] for one in spec["targets"]] for name in ("deviation", "mean")]
        in_units = keras.layers.Rescaling(*figures, name="units")(exported.output)
        exported = keras.Model(exported.input, in_units, name=exported.name)
    optimizer = optimizer_of(plan)
    # Its variables are made now: loading would warn of an optimizer whose state does not fit.
    optimizer.build(exported.trainable_variables)
    exported.compile(optimizer=optimizer, loss=loss_name(spec), metrics=[METRICS[tasks.task_of(spec)]])
    said = {
        "class_names": list(class_names) if class_names is not None else None,
        "input": input_of(columns) if columns else f"pixels 0..{white}, [n, {', '.join(map(str, spec['input']))}]",
        "output": _output(spec, class_names, "a row" if columns else "an image"),
        **({"table": table} if table is not None else {}),
    }
    if origin is not None:
        said |= origin.short() | _decision(origin)
    entries = {ENTRY: json.dumps(said, ensure_ascii=False, indent=2) + "\n"}
    if origin is not None:
        entries[CARD] = card(origin, said)
    if out.suffix == ".onnx":
        served.write_onnx(exported, entries, out)
    elif out.suffix == served.FOLDER:
        served.write_saved_model(exported, entries, out)
    else:
        _write_keras(exported, entries, out)
    return said


def _write_keras(exported: Any, entries: Mapping[str, str], out: Path) -> None:
    part = out.with_name(f".{secrets.token_hex(4)}.{out.name}")
    try:
        exported.save(part)
        with zipfile.ZipFile(part, "a") as archive:
            for name, text in entries.items():
                archive.writestr(name, text)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def _decision(origin: Origin) -> dict[str, Any]:
    """From which probability on an image is called what, where that was agreed."""
    decision = Decision.recorded(origin.metrics)
    said: dict[str, Any] = {name: value for name, value in decision.value().items() if value is not None}
    if not said:
        return {}
    words = [Decision(decision.threshold).told(names_of(origin.genesis), origin.rule)]
    if decision.temperature is not None:
        words.append(f"logits divided by {decision.temperature:.4g} give calibrated probabilities")
    return said | {"decision": "; ".join(filter(None, words))}


def _output(spec: dict[str, Any], names: Sequence[str] | None, one: str) -> str:
    if tasks.task_of(spec) == tasks.REGRESSION:
        number = tasks.number_of(spec)
        called = f": {', '.join(names)}" if names else ""
        return f"{number} number{'s'[: number != 1]} {one}, in the target's own units{called}"
    if tasks.task_of(spec) == tasks.LABELS:
        called = f": {', '.join(names)}" if names else ""
        return f"{spec['labels']} numbers {one}: the probability of each label{called}"
    if spec["classes"] == 2:
        return f"one number {one}: the probability of class 1{f', {names[1]}' if names else ''}"
    order = ", in the order of the names" if names else ""
    return f"{spec['classes']} numbers {one}: the probability of each class{order}"

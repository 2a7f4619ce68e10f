"""The exported network for programs without Keras: an ONNX file, or a TensorFlow SavedModel. By Keras' own exporter.

    FILE.onnx            the entries of `export` stand in its metadata, under their names; the extra `onnx` writes it
    FOLDER.savedmodel    they stand in its folder assets.extra

Both take and give what the `.keras` file does.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError
from fedssh.models.backend import load_keras

FOLDER = ".savedmodel"


def write_onnx(network: Any, entries: Mapping[str, str], out: Path) -> None:
    """Write a network as an ONNX file, whole or not at all.

    Raises:
        SettingsError: The extra `onnx` is not installed.
    """
    try:
        onnx = importlib.import_module("onnx")
        importlib.import_module("tf2onnx")
    except ImportError as error:
        raise SettingsError(f"{out} needs the extra onnx: {error}", "pip install 'fedssh[onnx]'") from None
    keras, part = load_keras(), out.with_name(f".{secrets.token_hex(4)}.{out.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Keras about NumPy, while it prepares the converter
            taken = [keras.InputSpec(shape=one.shape, dtype=one.dtype, name=one.name) for one in network.inputs]
            network.export(part, format="onnx", verbose=False, input_signature=taken)
        model = onnx.load(part)
        onnx.helper.set_model_props(model, dict(entries))
        onnx.save(model, part)
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def write_saved_model(network: Any, entries: Mapping[str, str], out: Path) -> None:
    """Write a network as a SavedModel folder, whole or not at all.

    Raises:
        SettingsError: There is something of that name.
    """
    if os.path.lexists(out):
        raise SettingsError(f"{out} exists already", "a folder is not written over")
    part = out.with_name(f".{secrets.token_hex(4)}.{out.name}")
    try:
        network.export(part, format="tf_saved_model", verbose=False)
        extra = part / "assets.extra"
        extra.mkdir()
        for name, text in entries.items():
            (extra / name).write_text(text, encoding="utf-8")
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)

"""Networks of keras.applications by name: what they take, that names are fixed, and weights from Keras' own files."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.charity.judge.starting_weights import read_given
from fedssh.errors import SettingsError
from fedssh.models import applications, likeness
from fedssh.models.backend import load_keras
from fedssh.models.layout import layout

SMALL = {"name": "keras:MobileNetV2", "input": [32, 32, 3], "classes": 2, "alpha": 0.1, "dropout": 0.0}
ASKED_BY_ALL = {"include_top", "weights", "input_tensor", "input_shape", "pooling", "classes", "classifier_activation"}
FORMER = importlib.import_module("keras.src.legacy.saving.legacy_h5_format")  # how files before Keras 3 are written


def test_the_list_is_what_keras_has() -> None:
    keras = load_keras()
    assert {name for name in dir(keras.applications) if name[0].isupper()} == set(applications.APPLICATIONS)
    for name, application in applications.APPLICATIONS.items():
        asked = inspect.signature(getattr(keras.applications, name)).parameters
        assert set(asked) - ASKED_BY_ALL - {"name", "dropout", "dropout_rate"} == {*application.own, *application.fixed}
        assert all(asked[one].default == default for one, default in application.own.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input": [31, 40, 3]}, "keras:MobileNetV2 needs images of at least 32x32, found 31x40"),
        ({"name": "keras:InceptionV3", "alpha": None}, "keras:InceptionV3 has no parameter 'alpha'"),
        ({"input": [32, 32, 2]}, "takes grey or colour images, 1 or 3 channels, found 2"),
        ({"pooling": "mean"}, "pooling must be avg or max, found 'mean'"),
        ({"norm_momentum": 1.0}, "norm_momentum must be at least 0 and less than 1, found 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, found 1"),
        ({"alpha": 0.0}, "alpha must be in 0.01..8, found 0"),
        ({"name": "mobilenet_v2"}, "no architecture is called 'mobilenet_v2'; did you mean 'keras:MobileNetV2'?"),
        ({"name": "keras:mobilenet2"}, "did you mean 'keras:MobileNetV2'?"),
        ({"name": "keras:os"}, "no architecture is called 'keras:os'; known are alexnet"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models.check_spec(SMALL | change)


def test_equal_specs_have_equal_names_whatever_was_built_before() -> None:
    keras = load_keras()
    spec = {"name": "keras:MobileNetV2", "input": [32, 40, 1], "classes": 3, "alpha": 0.1}
    first = models.build(spec)
    keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.1)
    again = models.build(spec)
    assert [one.path for one in first.weights] == [one.path for one in again.weights] == list(models.shapes(spec))
    assert [one.name for one in first.layers] == [one.name for one in again.layers]
    assert any(name.startswith("auto_") for name in (one.name for one in first.layers))


def test_statistics_may_follow_faster_than_keras_has_them() -> None:
    kind = load_keras().layers.BatchNormalization
    for asked, found in ((0.0, 0.999), (0.9, 0.9)):
        network = models.build({**SMALL, "norm_momentum": asked})
        assert {layer.momentum for layer in network.layers if isinstance(layer, kind)} == {found}


@pytest.mark.parametrize("former", [False, True])
def test_weights_of_a_file_without_top_give_the_features_of_keras(former: bool, tmp_path: Path) -> None:
    keras = load_keras()
    theirs = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.1, pooling="avg"
    )
    path = _saved(theirs, tmp_path / ("notop.h5" if former else "notop.weights.h5"), former)
    network = models.build(SMALL)
    given = read_given(path, {one.path: tuple(one.shape) for one in network.weights}, layout(network))
    told = f"260 of 262 tensors come from {path}; output/kernel and output/bias keep random weights"
    assert (given.told(str(path)), given.record["tensors"]) == (told, 260)
    models.set_weights(network, models.get_weights(network) | given.tensors)
    images = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    features = keras.Model(network.inputs, network.get_layer("pooling").output)
    scaled = keras.applications.mobilenet_v2.preprocess_input(images * 255)
    np.testing.assert_allclose(features([images]), theirs(scaled), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("former", [False, True])
def test_the_first_difference_of_a_file_is_named(former: bool, tmp_path: Path) -> None:
    keras = load_keras()
    wider = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35)
    path = _saved(wider, tmp_path / ("notop.h5" if former else "notop.weights.h5"), former)
    network = models.build(SMALL)
    said = "does not fit the network: layer 1 of 104, Conv1, needs Conv1/kernel of 3x3x3x8, the file has 3x3x3x16 there"
    with pytest.raises(SettingsError, match=re.escape(said)):
        read_given(path, {one.path: tuple(one.shape) for one in network.weights}, layout(network))


def test_a_link_out_of_the_file_is_not_followed(tmp_path: Path) -> None:
    import h5py

    network = models.build({"name": "mlp", "input": [2, 2, 1], "classes": 2, "width": 2, "depth": 1})
    expected = {one.path: tuple(one.shape) for one in network.weights}
    _saved(network, tmp_path / "whole.weights.h5")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["layers"] = h5py.ExternalLink(str(tmp_path / "whole.weights.h5"), "/layers")
    assert len(read_given(tmp_path / "whole.weights.h5", expected, layout(network)).tensors) == 4
    with pytest.raises(SettingsError, match="layers is not in it"):
        read_given(tmp_path / "linked.h5", expected, layout(network))
    (tmp_path / "text.h5").write_text("no such file")
    with pytest.raises(SettingsError, match="is no HDF5 file"):
        read_given(tmp_path / "text.h5", expected, layout(network))


def test_what_a_long_network_is_made_of_is_recorded_by_marks() -> None:
    found = likeness.describe({**SMALL, "alpha": 1.0, "input": [224, 224, 3]})
    agreed = likeness.recorded(found)
    assert set(agreed) == {"sha256", "keras", "marks"}
    assert len(agreed["marks"]) == likeness.MARK * len(found["lines"])
    lines = [*found["lines"]]
    lines[9] = "Activation other 1x1"
    other = {**found, "lines": lines, "sha256": "0", "keras": "9.9"}
    said = (
        f"part 10 is `Activation other 1x1` here and another one as agreed (Keras 9.9 here, {found['keras']} as agreed)"
    )
    assert likeness.difference(agreed, other) == said
    assert likeness.difference(agreed, found) is None


def test_a_federation_begins_with_one_and_weights_from_a_file(tmp_path: Path) -> None:
    theirs = load_keras().applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.25)
    _saved(theirs, tmp_path / "notop.weights.h5")
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val"):
        arrays |= {f"{split}_images": random.integers(0, 256, (8, 32, 32, 3), np.uint8)}
        arrays |= {f"{split}_labels": np.arange(8) % 2}
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    spec = {"name": "keras:MobileNet", "alpha": 0.25}
    words = [f"--state={tmp_path / 'state'}", f"--data={tmp_path / 'data.npz'}", "--genesis-epochs=0"]
    words += [f"--weights={tmp_path / 'notop.weights.h5'}", f"--architecture={json.dumps(spec)}"]
    charity = Path(sys.executable).with_name("charity")
    done = subprocess.run([charity, "init", *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "135 of 137 tensors come from" in done.stdout
    shown = subprocess.run([charity, "show", "1", "--json", words[0]], capture_output=True, check=True, timeout=60)
    record = json.loads(shown.stdout)
    assert record["spec"] == models.check_spec({"input": [32, 32, 3], "classes": 2, **spec})
    assert record["network"] == likeness.recorded(likeness.describe(record["spec"]))
    subprocess.run([charity, "export", "best", tmp_path / "m.keras", words[0]], check=True, timeout=120)
    exported = load_keras().models.load_model(tmp_path / "m.keras")
    right = (exported.predict(arrays["val_images"].astype(np.float32), verbose=0)[:, 0] > 0.5) == arrays["val_labels"]
    assert right.mean() == pytest.approx(record["metrics"]["accuracy"])


def _saved(network: Any, path: Path, former: bool = False) -> Path:
    """What Keras writes, now or before Keras 3; NumPy warns of how it reads its own variables."""
    import h5py

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not former:
            network.save_weights(path)
            return path
        with h5py.File(path, "w") as file:
            FORMER.save_weights_to_hdf5_group(file, network)
    return path

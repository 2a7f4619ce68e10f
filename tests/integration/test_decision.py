"""A federation that has agreed on a threshold and a temperature: what is recorded, shown, and said of other images."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, recall_score, roc_auc_score

from fedssh.models import decision
from fedssh.models.backend import load_keras
from fedssh.rules.differing import compared
from fedssh.rules.precision import wilson
from tests.integration.test_in_use import run

SPEC = {"name": "mlp", "depth": 1, "width": 4, "input": [6, 6, 1], "classes": 2}
NAMES = ["healthy", "ill"]


@pytest.fixture(scope="module")
def charity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that has just begun, whose test images are harder than its holdout."""
    folder = tmp_path_factory.mktemp("decision")
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(NAMES)}
    for split, number, apart in (("train", 80, 90), ("val", 120, 90), ("test", 200, 30)):
        labels = np.arange(number) % 2
        pixels = random.integers(0, 160, (number, 6, 6)) + apart * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    where = (f"--state={folder / 'state'}", f"--data={folder / 'data.npz'}", f"--architecture={json.dumps(SPEC)}")
    run(
        "charity",
        "init",
        *where,
        "--genesis-epochs=12",
        "--batch-size=8",
        "--threshold=sensitivity>=0.95",
        "--temperature",
    )
    return folder / "state"


def json_of(state: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("charity", *words, "--json", f"--state={state}").stdout)
    return found


@pytest.fixture(scope="module")
def scored(charity: Path) -> dict[str, Any]:
    """What `charity score` says of the test split."""
    return json_of(charity, "score")


def test_what_was_agreed_is_found_on_the_holdout_and_recorded(charity: Path) -> None:
    first = json_of(charity, "show", "1")
    assert first["decision"] == {"threshold": "sensitivity>=0.95", "temperature": True}
    metrics = first["metrics"]
    (right, wrong), (missed, found) = metrics["confusion_at_threshold"]
    assert right + wrong == missed + found == 60 and found / 60 >= 0.95 and 0 < metrics["threshold"] < 1
    assert metrics["temperature"] != 1 and 0 < metrics["calibration_error"] < 0.5
    assert "1 record: every hash" in (said := run("charity", "verify", f"--state={charity}").stdout)
    assert "that a threshold or temperature is what the holdout gives (1)" in said
    best = json_of(charity, "best")["holdout"]
    assert best["threshold"] | {"figures": []} == {
        "value": metrics["threshold"], "rule": "sensitivity>=0.95", "class": "ill", "figures": [],
    }  # fmt: skip
    assert best["threshold"]["figures"][-1]["of"] == "recall of ill"
    assert best["threshold"]["figures"][-1]["right"] == found
    text = run("charity", "best", f"--state={charity}").stdout
    assert "CALLED ill FROM " in text and "recall of healthy" in text and "95 % INTERVAL" in text


def test_the_test_split_is_held_against_the_holdout(charity: Path, scored: dict[str, Any]) -> None:
    said, recorded = scored, json_of(charity, "show", "1")["metrics"]
    assert said["holdout"]["threshold"]["value"] == recorded["threshold"]
    mine = {one["of"]: one["value"] for one in said["holdout"]["figures"]}
    assert mine["accuracy"] == recorded["accuracy"] and mine["AUC"] == pytest.approx(recorded["auc"])
    assert said["holdout"]["calibration"]["error"] == pytest.approx(recorded["calibration_error"])
    assert said["assessed"]["images"] == 200 and said["metrics"].keys() == recorded.keys() - {
        "threshold", "confusion_at_threshold", "temperature", "calibration_error",
    }  # fmt: skip
    assert said["compared"]["differs"]
    assert said["compared"]["sentence"].startswith("the holdout does not speak for the test images: accuracy 0.")


def test_figures_of_the_test_split_are_those_of_the_predictions(
    charity: Path, scored: dict[str, Any], tmp_path: Path
) -> None:
    arrays = np.load(charity.parent / "data.npz")
    np.savez(tmp_path / "images.npz", images=arrays["test_images"])
    done = run("charity", "predict", tmp_path / "images.npz", "--csv", tmp_path / "said.csv", f"--state={charity}")
    assert "called ill from 0." in done.stderr and "on, by sensitivity>=0.95 on the holdout; prob" in done.stderr
    lines = (tmp_path / "said.csv").read_text().splitlines()[1:]
    said, labels = [line.split(",") for line in lines], arrays["test_labels"]
    assessed = scored["assessed"]
    called = np.array([NAMES.index(row[1]) for row in said])
    figures = {one["of"]: one["value"] for one in assessed["threshold"]["figures"]}
    assert figures["recall of ill"] == pytest.approx(recall_score(labels, called))
    assert figures["recall of healthy"] == pytest.approx(recall_score(1 - labels, 1 - called))
    probability = np.array([float(row[3]) for row in said])
    area = next(one for one in assessed["figures"] if one["of"] == "AUC")
    assert area["value"] == pytest.approx(roc_auc_score(labels, probability), abs=1e-3)
    error = decision.calibration_error(decision.columns(probability, 2), labels)
    assert error == pytest.approx(assessed["calibration"]["tempered"]["error"], abs=2e-3)


def test_what_has_no_threshold_is_refused_before_anything_begins(charity: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(charity.parent / "data.npz"))
    arrays["val_labels"][:] = 1
    np.savez(tmp_path / "one.npz", allow_pickle=False, **arrays)
    where = (f"--state={tmp_path / 'state'}", f"--data={tmp_path / 'one.npz'}", f"--architecture={json.dumps(SPEC)}")
    done = run("charity", "init", *where, "--threshold=youden", code=1)
    assert "a threshold needs examples of both classes" in done.stderr


@pytest.mark.parametrize("name", ["model.keras", "model.savedmodel", "model.onnx"])
def test_what_is_exported_gives_the_scores_of_the_history_and_carries_the_threshold(
    charity: Path, tmp_path: Path, name: str
) -> None:
    if name.endswith(".onnx"):
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    run("charity", "export", "best", tmp_path / name, f"--state={charity}")
    arrays, metrics = np.load(charity.parent / "data.npz"), json_of(charity, "show", "1")["metrics"]
    outputs, said, card = READERS[name.partition(".")[2]](tmp_path / name, arrays["val_images"][..., None])
    labels = arrays["val_labels"]
    assert decision.at(outputs, labels, 0.5) == metrics["confusion"]
    assert decision.at(outputs, labels, metrics["threshold"]) == metrics["confusion_at_threshold"]
    assert log_loss(labels, outputs.astype(np.float64)) == pytest.approx(metrics["loss"], abs=1e-5)
    found = json.loads(said)
    assert (found["threshold"], found["temperature"]) == (metrics["threshold"], metrics["temperature"])
    assert (found["class_names"], found["record"], len(found["hash"])) == (NAMES, 1, 64)
    assert found["decision"].startswith("called ill from 0.") and "sensitivity>=0.95" in found["decision"]
    assert "| recall of ill | 0." in card and "the coordinator's `charity score` says it" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def keras_of(path: Path, images: np.ndarray) -> tuple[np.ndarray, str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras about NumPy
        network = load_keras().models.load_model(path)
    with zipfile.ZipFile(path) as archive:
        entries = [archive.read(name).decode() for name in ("class_names.json", "README.md")]
    return network.predict(images.astype(np.float32), verbose=0)[:, 0], *entries


def saved_model_of(path: Path, images: np.ndarray) -> tuple[np.ndarray, str, str]:
    load_keras()
    import tensorflow

    loaded = tensorflow.saved_model.load(str(path))
    outputs = loaded.serve(images.astype(np.float32)).numpy()[:, 0]
    return outputs, *((path / "assets.extra" / name).read_text() for name in ("class_names.json", "README.md"))


def onnx_of(path: Path, images: np.ndarray) -> tuple[np.ndarray, str, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    entries = session.get_modelmeta().custom_metadata_map
    [outputs] = session.run(None, {"pixels": images.astype(np.float32)})
    return outputs[:, 0], entries["class_names.json"], entries["README.md"]


READERS = {"keras": keras_of, "savedmodel": saved_model_of, "onnx": onnx_of}


def test_a_card_says_whether_the_holdout_spoke_for_the_test_images(charity: Path, tmp_path: Path) -> None:
    run("charity", "export", "best", tmp_path / "m.keras", "--test", f"--state={charity}")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        card = archive.read("README.md").decode()
    assert "**the holdout does not speak for the test images: accuracy 0." in card
    assert "On the test split, 200 images:" in card


def test_the_page_shows_what_its_tables_give(root: Path) -> None:
    page = (root / "docs/how-to/thresholds.md").read_text()
    assert "--threshold 'sensitivity>=0.95' --temperature" in page, "as in the federation above"
    shown = re.findall(
        r"^(accuracy|recall of \w+) +([\d.]+) +([\d.]+) to ([\d.]+) +(\d+) of (\d+)$", page, re.MULTILINE
    )
    assert len(shown) == 6
    for _, value, low, high, right, of in shown:
        expected = [int(right) / int(of), *wilson(int(right), int(of))]
        assert [float(value), float(low), float(high)] == pytest.approx(expected, abs=5.1e-5)
    well, ill = (int(right) for what, *_, right, _ in shown[3:] if what.startswith("recall"))
    holdout, test = [[well, 135 - well], [389 - ill, ill]], [[171, 63], [17, 373]]  # the split test's is not shown
    assert compared(holdout, test, ["normal", "pneumonia"])["sentence"] in page

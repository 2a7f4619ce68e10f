"""A model in use: predictions and exports at the coordinator and at a site, by the commands that people type."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh.keys import PrivateKey
from fedssh.models import build, get_weights
from fedssh.weights import write_weights
from tests.harness.alice import PLAN
from tests.harness.releases import Coordinator

SPEC = {"name": "mlp", "depth": 1, "width": 4, "input": [6, 6, 1], "classes": 2}
NAMES = ["=healthy", "ill"]  # a name that a spreadsheet would take for a formula is only text here
LOAD = (
    "import keras, numpy, sys; a = numpy.load(sys.argv[2]); m = keras.models.load_model(sys.argv[1]);"
    "print(*m.predict(a['images'], verbose=0)[:, 0])"
)


def run(program: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(program)), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def charity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A federation that has just begun, and the images of its test split as files."""
    folder = tmp_path_factory.mktemp("charity")
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {"class_names": np.array(NAMES)}
    for split, number in (("train", 80), ("val", 40), ("test", 70)):
        labels = np.arange(number) % 2
        pixels = random.integers(0, 160, (number, 6, 6)) + 90 * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    np.savez(folder / "data.npz", allow_pickle=False, **arrays)
    for index, (pixels, label) in enumerate(zip(arrays["test_images"], arrays["test_labels"], strict=True)):
        (folder / "test" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "test" / str(label) / f"{index:03}.png")
    where = (f"--state={folder / 'state'}", f"--data={folder / 'data.npz'}")
    run("charity", "init", *where, f"--architecture={json.dumps(SPEC)}", "--genesis-epochs=12", "--batch-size=8")
    return folder / "state", folder / "test"


def test_predictions_are_what_the_history_scores(charity: tuple[Path, Path], tmp_path: Path) -> None:
    state, images = charity
    out = tmp_path / "said.csv"
    done = run("charity", "predict", images, "--csv", out, "--json", f"--state={state}")
    said = rows(out)
    assert list(said[0]) == ["file", "class", "p(=healthy)", "p(ill)", "error"]
    assert [row["file"] for row in said] == sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    right = [row["class"] == NAMES[int(row["file"][0])] for row in said]
    score = json.loads(run("charity", "score", "--split=test", "--json", f"--state={state}").stdout)["metrics"]
    assert sum(right) / len(right) == pytest.approx(score["accuracy"])
    assert 0.55 < score["accuracy"] < 1, "or nothing is compared"
    table = json.loads(done.stdout)
    called = {name: [row["class"] for row in said].count(name) for name in NAMES}
    assert table["called"] == {name: number for name, number in called.items() if number}
    assert (table["record"], table["unreadable"]) == (1, 0)
    for row in said:
        assert float(row["p(=healthy)"]) + float(row["p(ill)"]) == pytest.approx(1, abs=1e-5)


def test_another_threshold_moves_the_line(charity: tuple[Path, Path], tmp_path: Path) -> None:
    state, images = charity
    called = {}
    for threshold in (0, 1):
        run("charity", "predict", images, f"--threshold={threshold}", "--csv", tmp_path / "t.csv", f"--state={state}")
        called[threshold] = {row["class"] for row in rows(tmp_path / "t.csv")}
    assert called == {0: {"ill"}, 1: {"=healthy"}}


def test_a_file_that_cannot_be_read_stops_no_other(charity: tuple[Path, Path], tmp_path: Path) -> None:
    state, images = charity
    folder = tmp_path / "odd"
    folder.mkdir()
    good = next(images.rglob("*.png")).read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "b.png").write_bytes(good[:40])
    (folder / "notes.txt").write_text("not an image")
    (folder / "scan.nii").write_bytes(b"\0" * 400)
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / "c.jpg")
    done = run("charity", "predict", folder, "--csv", tmp_path / "odd.csv", f"--state={state}", code=1)
    assert "absl" not in done.stderr and "oneDNN" not in done.stderr
    assert "error: 1 of 3 images could not be read; the table says why" in done.stderr
    assert "passed over: *.nii files (1), *.txt (1)" in done.stderr
    said = rows(tmp_path / "odd.csv")
    assert [(row["file"], bool(row["class"]), bool(row["error"])) for row in said] == [
        ("a.png", True, False), ("b.png", False, True), ("c.jpg", True, False),
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "odd.csv"]


@pytest.mark.parametrize(
    ("name", "arrays", "said"),
    [
        ("empty", {}, "holds nothing"),
        ("flat.npz", {"images": np.zeros((3, 5))}, "has shape (3, 5), expected [n, height, width, channels]"),
        ("other.npz", {"pixels": np.zeros((3, 6, 6))}, "it holds pixels: --key says which"),
    ],
)
def test_what_holds_no_images_is_said(
    charity: tuple[Path, Path], tmp_path: Path, name: str, arrays: dict[str, np.ndarray], said: str
) -> None:
    path = tmp_path / name
    if arrays:
        np.savez(path, allow_pickle=False, **arrays)
    else:
        path.mkdir()
        said = "has no images"
    assert said in run("charity", "predict", path, f"--state={charity[0]}", code=2).stderr


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> tuple[str, str]:
    """A site that has agreed to a federation and holds a release of it, as options."""
    coordinator = Coordinator(keys["coordinator"], SPEC, PLAN, class_names=NAMES)
    incoming = tmp_path / "exchange" / "incoming"
    incoming.mkdir(parents=True)
    network = build(SPEC)
    write_weights(incoming / "00000007.safetensors", get_weights(network), SPEC)
    coordinator.lay_out(incoming, 7)
    invitation = tmp_path / "invitation.json"
    invitation.write_text(json.dumps(coordinator.invitation()))
    where = (f"--exchange={tmp_path / 'exchange'}", f"--state={tmp_path / 'alice'}")
    run("alice", "join", invitation, *where)
    return where


def test_a_site_predicts_and_exports_with_what_it_holds(site: tuple[str, str], tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 6, 1), dtype=np.uint8)
    np.savez(tmp_path / "new.npz", images=images)
    done = run("alice", "predict", tmp_path / "new.npz", *site)
    said = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["file"] for row in said] == ["0", "1", "2", "3", "4"]
    assert done.stderr.splitlines()[-1].startswith("by the model of release 7: ")
    out = tmp_path / "best.keras"
    assert "unzip -p" in run("alice", "export", out, *site).stdout
    environ = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", LOAD, str(out), str(tmp_path / "new.npz")]
    loaded = subprocess.run(command, capture_output=True, text=True, env=environ, check=True).stdout.split()
    assert list(map(float, loaded)) == pytest.approx([float(row["p(ill)"]) for row in said], abs=2e-6)
    with zipfile.ZipFile(out) as archive:
        traced, card = json.loads(archive.read("class_names.json")), archive.read("README.md").decode()
    assert traced["class_names"] == NAMES and traced["record"] == 7
    assert f"fedssh verify ledger.jsonl --head {traced['hash']}" in card
    assert "0 is =healthy, 1 is ill" in card and "| accuracy | 0.5000 |" in card


@pytest.mark.parametrize("spoilt", ["00000007.safetensors", "00000007.json"])
def test_a_release_that_was_changed_is_not_used(site: tuple[str, str], tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "exchange" / "incoming" / spoilt
    text = path.read_bytes()
    path.write_bytes(text[:-3] + bytes([text[-3] ^ 1]) + text[-2:])
    np.savez(tmp_path / "new.npz", images=np.zeros((1, 6, 6), np.uint8))
    for words in (("predict", tmp_path / "new.npz"), ("export", tmp_path / "best.keras")):
        assert "Traceback" not in run("alice", *words, *site, code=3).stderr
    assert not (tmp_path / "best.keras").exists()


def test_a_site_without_a_release_or_an_agreement_says_so(site: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "exchange" / "incoming" / "00000007.json").unlink()
    assert "there is no release in" in run("alice", "export", tmp_path / "x.keras", *site, code=4).stderr
    other = (site[0], f"--state={tmp_path / 'other'}")
    assert "agreed to" in run("alice", "export", tmp_path / "x.keras", *other, code=2).stderr

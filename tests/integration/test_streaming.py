"""Images that stream from a file: the very weights, scores and remarks of those in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedssh import models
from fedssh.alice.learner import Network, Stopped
from fedssh.models import streaming
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets, images, pixel_file
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import NoRoomError, PixelFile, Store
from fedssh.models.data.reading import Reading
from fedssh.models.firing import Watch
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.training import Trainer, resident
from fedssh.rules.plan import read_plan
from fedssh.use.check import Agreed, site_data
from fedssh.weights import read_header, write_weights
from tests.harness.images import easy_images

SPEC: dict[str, Any] = {"name": "cnn", "input": [12, 12, 3], "classes": 3, "depth": 4}
NUMBER = 50
RECIPES = [PLAIN, Recipe(class_weights="balanced", augment="flip,shift,contrast")]
FIXMATCH = "fixmatch:threshold=0.1,weight=1,ratio=2,decay=0.5"
RECIPES += [Recipe(calibrate="labels", label_shares=(0.2, 0.2, 0.6), unlabelled=FIXMATCH)]


def stored(number: int = NUMBER, shape: tuple[int, ...] = (12, 12, 3), kind: Any = np.uint8) -> np.ndarray:
    most = 256 if kind == np.uint8 else 65536
    return np.random.default_rng(1).integers(0, most, (number, *shape)).astype(kind)


def labels(number: int = NUMBER) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 3, number)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, train_images=stored(), train_labels=labels())
    return path


def loaded(path: Path, folder: Path, told: list[str] | None = None, **more: Any) -> tuple[Images, Images]:
    """In memory, and in a file."""
    reading = Reading(**more)
    store = Store(folder / "pixels", 0, (told if told is not None else []).append)
    wanted, number = SPEC["input"], SPEC["classes"]
    return images.load(path, wanted, number, "train", reading), images.load(
        path, wanted, number, "train", dataclasses.replace(reading, store=store)
    )


def digest(trainer: Trainer) -> str:
    whole = hashlib.sha256()
    for array in trainer.weights().values():
        whole.update(array.tobytes())
    return whole.hexdigest()


def test_the_weights_are_the_same_to_the_bit(arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SLICE_BYTES", 12 * 12 * 3 * 4 * 20)  # of 20 images: several slices in an epoch
    load_keras(1)
    others = np.random.default_rng(4).random((30, 12, 12, 3), dtype=np.float32)
    memory, file = (resident(one, unlabelled=others) for one in loaded(arrays, tmp_path))
    assert isinstance(file.images, PixelFile)
    assert not isinstance(memory.images, PixelFile)
    order = np.random.default_rng(3).permutation(NUMBER)
    for recipe in RECIPES:
        trainer = Trainer(SPEC, "adam", 0.01, recipe=recipe)
        start = trainer.weights()
        for batch in (8, 7, 64):  # with a short last one, and larger than a slice and than all
            found = []
            for examples, stop in ((memory, None), (file, None), (file, threading.Event())):
                trainer.load(start)
                trainer.fresh(1, 2, -(-NUMBER // batch))
                said = [trainer.epoch(examples, order, batch, stop) for _ in range(2)]
                said.append(trainer.evaluate(examples, stop))
                found.append((digest(trainer), said, trainer.confusion(examples).tolist()))
            assert found[0] == found[1] == found[2]
    watch = Watch(trainer.network)  # of the last one
    assert watch.look(memory) == watch.look(file)


@pytest.mark.parametrize(
    ("array", "white", "kept"),
    [
        (stored(), None, "|u1"),
        (stored(kind=np.uint16), None, "<u2"),
        (stored(kind=np.uint16) // 16, 4095, "<u2"),
        (stored(shape=(12, 12)), None, "<f4"),  # grey becomes three colours
        (stored(shape=(13, 15, 3)), None, "<f4"),  # resized
        (stored() / np.float32(255), None, "<f4"),
    ],
)
def test_every_number_is_the_one_that_stands_in_memory(
    tmp_path: Path, array: np.ndarray, white: int | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedssh.models.data import arrays as members

    monkeypatch.setattr(members, "PIECE_BYTES", 1000)
    for save in (np.savez_compressed, np.savez):
        save(tmp_path / "set.npz", x_train=array, y_train=labels())
        told: list[str] = []
        memory, file = loaded(tmp_path / "set.npz", tmp_path, told, white=white)
        assert isinstance(file.images, PixelFile)
        assert file.images._dtype.str == kept
        assert np.array_equal(memory.labels, file.labels)
        for at in (np.arange(NUMBER), np.array([3, 4, 5, 49, 0]), np.array([], int)):
            assert file.images.read(at).tobytes() == memory.images[at].tobytes()
        two: Any = file.take(np.array([7, 9])).images
        assert two.read(np.array([1])).tobytes() == memory.images[9].tobytes()
        assert len(told) == 2


def test_a_folder_is_decoded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    for number, (pixels, label) in enumerate(zip(stored(30), labels(30), strict=True)):
        path = folder / "abc"[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    told: list[str] = []
    memory, file = loaded(folder, tmp_path, told)
    every = np.arange(30)
    assert isinstance(file.images, PixelFile)
    assert file.images._dtype.str == "|u1"  # as they are: a quarter of what memory would take
    assert file.images.read(every).tobytes() == memory.images.tobytes()
    assert len(told) == 2
    loaded(folder, tmp_path, told)
    assert len(told) == 2  # nothing was decoded
    odd = max(folder.glob("c/*.png"))  # the last one of all: what stands in the file goes over to float32
    Image.fromarray(stored(1, (20, 20, 3))[0]).save(odd)
    lines: list[str] = []
    for _ in range(2):
        memory, file = loaded(folder, tmp_path, told, tell=lines.append)
        assert isinstance(file.images, PixelFile)
        assert file.images.read(every).tobytes() == memory.images.tobytes()
        assert file.images._dtype.str == "<f4"
    assert len(told) == 4
    assert len([line for line in lines if "resized" in line]) == 4  # also said where nothing is decoded
    assert {path.name for path in (tmp_path / "pixels").iterdir()} == {"train.pixels", "train.json"}
    with open(tmp_path / "pixels/train.pixels", "r+b") as cut:
        cut.truncate(100)
    assert isinstance(loaded(folder, tmp_path, told)[1].images, PixelFile)
    assert len(told) == 6
    odd.write_bytes(b"no image")
    with pytest.raises(ValueError, match="no readable images"):
        loaded(folder, tmp_path)
    with pytest.raises(ValueError, match="no readable images"):
        images.load(folder, SPEC["input"], 3, "train", Reading(store=Store(tmp_path / "pixels", 0)))
    assert not list((tmp_path / "pixels").iterdir())  # the old one is gone, the new one is not whole


def test_what_fits_stays_in_memory_and_the_disk_is_looked_at_first(
    arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = NUMBER * 12 * 12 * 3 * 4
    store = Store(tmp_path / "pixels", needed)
    assert isinstance(images.load(arrays, SPEC["input"], 3, "train", Reading(store=store)).images, np.ndarray)
    assert isinstance(images.load(arrays, SPEC["input"], 3, "train", Reading(store=store)).images, PixelFile)
    store.begin()
    assert isinstance(images.load(arrays, SPEC["input"], 3, "train", Reading(store=store)).images, np.ndarray)
    monkeypatch.setattr(pixel_file, "SPARE_BYTES", 1 << 62)
    (tmp_path / "pixels/train.json").unlink()
    with pytest.raises(NoRoomError, match=r"take 21\.6 kB in .*pixels, where .* are free; make room"):
        images.load(arrays, SPEC["input"], 3, "train", Reading(store=store))
    assert not list((tmp_path / "pixels").iterdir())


def test_a_site_chooses_by_itself_and_trains_the_same(tmp_path: Path) -> None:
    spec: dict[str, Any] = models.check_spec({"name": "mlp", "input": [6, 6, 1], "classes": 2, "width": 16})
    plan = read_plan({
        "batch_size": 16, "epochs": 3, "patience": 10, "optimizer": "adam", "learning_rate": 0.02, "loss": "auto",
        "metric": "accuracy",
    })  # fmt: skip
    datasets.save(tmp_path / "site.npz", {"train": easy_images(120)})
    load_keras(1).utils.set_random_seed(1)
    write_weights(tmp_path / "model.safetensors", models.get_weights(models.build(spec)), spec)
    release: Any = SimpleNamespace(
        layers=None, model=tmp_path / "model.safetensors", header=read_header(tmp_path / "model.safetensors"),
        standing=SimpleNamespace(policy="best"),
    )  # fmt: skip
    told: list[str] = []
    weights = []
    for most in (10**9, 100):
        network = Network(tmp_path / "site.npz", 1, 1, None, store=Store(tmp_path / "pixels", most, told.append))
        start = network.adopt(release, plan)
        network.fit(1, plan, start, lambda epoch: False, threading.Event())
        weights.append({name: array.tobytes() for name, array in network.weights().items()})
        assert (network.examples, network.validation_examples) == (102, 18)  # both are views of one file
        assert bool(told) == (most == 100)
    assert weights[0] == weights[1]
    stop = threading.Event()
    stop.set()
    network = Network(tmp_path / "site.npz", 1, 1, None, store=Store(tmp_path / "other", 100, stop=stop))
    with pytest.raises(Stopped, match="stopped while images were decoded"):
        network.adopt(release, plan)
    assert not list((tmp_path / "other").iterdir())
    assert told[0].startswith("train: 120 images would take 17.3 kB of memory, more than may be used; they are decoded")


def test_alice_check_says_what_either_way_takes(arrays: Path, tmp_path: Path) -> None:
    agreed = Agreed({"input": [12, 12, 3], "classes": 3})
    memory = NUMBER * 12 * 12 * 3 * 4
    stays, streams = (site_data(arrays, Reading(), agreed, share=share) for share in (1.0, 0.0))
    assert stays.planned and streams.planned
    assert (stays.planned.streamed, stays.planned.taken, stays.planned.disk) == ((), memory, 0)
    assert (streams.planned.streamed, streams.planned.taken, streams.planned.disk) == (("train",), 0, memory // 4)
    assert not [one for one in stays.said if "streams" in one.text]
    [remark] = [one for one in streams.said if "streams" in one.text]
    assert remark.level == "note" and "`alice train` streams train from disk" in remark.text


def test_numbers_to_predict_stream_too(tmp_path: Path) -> None:
    targets = np.random.default_rng(4).random((30, 2), dtype=np.float32)
    spec: dict[str, Any] = {
        "name": "mlp", "input": [6, 6, 1], "width": 8, "task": "regression",
        "targets": [{"mean": 0.5, "deviation": 0.3}] * 2,
    }  # fmt: skip
    pixels = stored(30, (6, 6))
    np.savez(tmp_path / "set.npz", train_images=pixels, train_labels=targets)
    rows = ["file,age,weight"]
    for number, (picture, target) in enumerate(zip(pixels, targets, strict=True)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{target[0]},{target[1]}")
    (tmp_path / "files.csv").write_text("\n".join(rows))
    for name, columns in (("set.npz", {}), ("files.csv", {"label": "age+weight"})):
        reading = Reading(task="regression", columns=columns)
        file = dataclasses.replace(reading, store=Store(tmp_path / name.replace(".", "-"), 0))
        sets = [images.load(tmp_path / name, spec["input"], 2, "train", one) for one in (reading, file)]
        assert isinstance(sets[1].images, PixelFile)
        trainer = Trainer(spec, "adam", 0.01)
        start, found = trainer.weights(), []
        for one in sets:
            trainer.load(start)
            trainer.fresh(1, 1, 4)
            said = trainer.epoch(resident(one, spec), np.arange(30)[::-1], 8)
            found.append((digest(trainer), said))
        assert found[0] == found[1]
